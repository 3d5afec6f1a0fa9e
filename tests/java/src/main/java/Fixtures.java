import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.avro.Schema;
import org.apache.avro.SchemaNormalization;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.io.Encoder;
import org.apache.avro.io.EncoderFactory;
import org.apache.avro.message.BinaryMessageDecoder;
import org.apache.avro.message.BinaryMessageEncoder;

/** Writes what Java's Avro makes of our schemas, and reads what we make of them: see the README of the fixtures. */
public final class Fixtures {
    private static final byte MAGIC = 0;
    private static final int SCHEMA_ID = 42;

    private Fixtures() {}

    public static void main(String[] arguments) throws IOException {
        Path schemas = Path.of(arguments[0]);
        Path fixtures = Path.of(arguments[1]);
        Schema.Parser parser = new Schema.Parser();
        parser.parse(schemas.resolve("jirafe.hub.Order.avsc").toFile()); // those of carts and orders refer to it
        Map<String, Schema> ours = new LinkedHashMap<>();
        for (String name : new String[] {"cart", "order", "product", "taxon", "result"}) {
            ours.put(name, parser.parse(schemas.resolve(name + ".avsc").toFile()));
        }

        StringBuilder fingerprints = new StringBuilder();
        ours.forEach((name, schema) -> fingerprints.append(
            "%s %016x%n".formatted(name, SchemaNormalization.parsingFingerprint64(schema))));
        Files.writeString(fixtures.resolve("fingerprints.txt"), fingerprints);

        for (String name : new String[] {"cart", "order", "product", "taxon"}) {
            GenericRecord record = fromJson(ours.get(name), fixtures.resolve(name + ".json"));
            ByteBuffer framed = new BinaryMessageEncoder<>(GenericData.get(), ours.get(name)).encode(record);
            Files.write(fixtures.resolve(name + ".bin"), bytes(framed));
        }

        Schema writer = new Schema.Parser().parse(fixtures.resolve("evolved-order.avsc").toFile());
        GenericRecord evolved = fromJson(writer, fixtures.resolve("evolved-order.json"));
        byte[] body = binary(writer, evolved);
        ByteBuffer framed = ByteBuffer.allocate(5 + body.length).put(MAGIC).putInt(SCHEMA_ID).put(body).flip();
        Files.write(fixtures.resolve("evolved-order.bin"), bytes(framed));

        BinaryMessageDecoder<GenericRecord> decoder =
            new BinaryMessageDecoder<>(GenericData.get(), ours.get("result"));
        GenericRecord result = decoder.decode(Files.readAllBytes(fixtures.resolve("result.bin")));
        Files.writeString(fixtures.resolve("result.json"), json(result) + System.lineSeparator());
    }

    private static GenericRecord fromJson(Schema schema, Path file) throws IOException {
        return new GenericDatumReader<GenericRecord>(schema)
            .read(null, DecoderFactory.get().jsonDecoder(schema, Files.readString(file)));
    }

    private static byte[] binary(Schema schema, GenericRecord record) throws IOException {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        return written(schema, record, EncoderFactory.get().binaryEncoder(out, null), out);
    }

    private static String json(GenericRecord record) throws IOException {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        Schema schema = record.getSchema();
        return new String(written(schema, record, EncoderFactory.get().jsonEncoder(schema, out, true), out), "UTF-8");
    }

    private static byte[] written(Schema schema, GenericRecord record, Encoder encoder, ByteArrayOutputStream out)
            throws IOException {
        new GenericDatumWriter<GenericRecord>(schema).write(record, encoder);
        encoder.flush();
        return out.toByteArray();
    }

    private static byte[] bytes(ByteBuffer buffer) {
        byte[] bytes = new byte[buffer.remaining()];
        buffer.get(bytes);
        return bytes;
    }
}
