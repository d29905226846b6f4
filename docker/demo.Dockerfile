# `bqcore` with what its demo needs; from the checkout's root: docker build -f docker/demo.Dockerfile -t bqcore/demo .
ARG BASE=debian:trixie-slim

FROM ${BASE} AS build
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    ca-certificates gcc libc6-dev python3-dev python3-venv
COPY . /src/
RUN python3 -m venv /opt/bqcore && /opt/bqcore/bin/pip install --no-cache-dir '/src[datasets,demo]'

FROM ${BASE}
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 999 --user-group --create-home bqcore \
    && install -d -o bqcore -g bqcore /output
COPY --from=build /opt/bqcore/ /opt/bqcore/
USER bqcore
WORKDIR /output
ENTRYPOINT ["/opt/bqcore/bin/bqcore"]
CMD ["--help"]
