"""The stream side: from records in Kafka to results in Kafka."""
