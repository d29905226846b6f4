# Postgres with pgvector and bqcore. `make docker-image` builds it; so does, from the checkout's root,
#   docker build -f docker/postgres.Dockerfile --build-arg PG_MAJOR=17 -t bqcore/postgres:17 .
#
# BASE      a Debian with packages postgresql-$PG_MAJOR and postgresql-$PG_MAJOR-pgvector, or with either already
#           in it, as pgvector/pgvector:pg18-trixie.
# PG_MAJOR  version of Postgres. Where docker/server holds an embedded server's unpacked wheel, that server is taken:
#           so an image of a version comes about that Debian does not have.
ARG BASE=debian:trixie-slim

FROM ${BASE} AS server
ARG PG_MAJOR=17
USER root
COPY docker/server/ /opt/wheel/
COPY docker/install-server.sh /tmp/
RUN /tmp/install-server.sh "${PG_MAJOR}" && rm /tmp/install-server.sh

FROM server AS build
ARG PG_MAJOR=17
COPY native/ /src/native/
COPY adapters/postgres/extension/ /src/adapters/postgres/extension/
COPY docker/build-extension.sh /tmp/
RUN /tmp/build-extension.sh "${PG_MAJOR}"

FROM server
COPY --from=build /install/ /
COPY docker/entrypoint.sh docker/healthcheck.sh /usr/local/bin/
ENV PATH=/opt/postgres/bin:$PATH \
    LANG=C.UTF-8 \
    PGDATA=/var/lib/postgresql/data \
    PGHOST=/var/run/postgresql
VOLUME /var/lib/postgresql/data
USER postgres
EXPOSE 5432
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s CMD ["healthcheck.sh"]
ENTRYPOINT ["entrypoint.sh"]
CMD ["postgres"]
