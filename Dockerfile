# Two images of the same code. `consumer` is for production: the service and what it needs, nothing else. `demo` has
# the sandbox and the embedded broker too: all of requirements.lock.
ARG BASE=python:3.13.15-slim-trixie@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b

FROM ${BASE} AS base
ENV PATH=/opt/consumer/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

FROM base AS locked
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN ["python", "-m", "venv", "/opt/consumer"]
COPY requirements.lock .
RUN ["pip", "install", "--require-hashes", "--no-deps", "--only-binary=:all:", "-r", "requirements.lock"]
COPY . .
RUN ["pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "/wheel", "."]
RUN ["pip", "install", "--no-deps", "--no-index", "--find-links", "/wheel", "jirafe-consumer"]

FROM base AS run
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_PYTHON=/opt/consumer/bin/python
WORKDIR /build
RUN ["python", "-m", "venv", "--without-pip", "/opt/consumer"]
COPY requirements.run.lock .
RUN ["pip", "install", "--require-hashes", "--no-deps", "--only-binary=:all:", "-r", "requirements.run.lock"]
COPY --from=locked /wheel /wheel
RUN ["pip", "install", "--no-deps", "--no-index", "--find-links", "/wheel", "jirafe-consumer"]

FROM base AS service
COPY --from=run /opt/consumer /opt/consumer
ENV CONSUMER_HTTP_ADDRESS=0.0.0.0:8000
EXPOSE 8000
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["jirafe-consumer"]
CMD ["run"]

FROM service AS demo
COPY --from=locked /opt/consumer /opt/consumer
# The embedded broker stores its program there.
ENV HOME=/tmp
CMD ["demo"]

# Without --target, the last stage is built.
FROM service AS consumer
# A proxy of the environment is not asked: it would answer for the member.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s CMD ["python", "-c", "import os, urllib.request as r; \
    host, _, port = os.environ['CONSUMER_HTTP_ADDRESS'].rpartition(':'); \
    url = f'http://{host or \"127.0.0.1\"}:{port}/healthz'; \
    port == 'off' or r.build_opener(r.ProxyHandler({})).open(url, timeout=4)"]
