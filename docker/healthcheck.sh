#!/bin/sh
# By TCP: while the cluster is being made, the server has no port.
exec pg_isready --quiet --host=127.0.0.1 --username="${POSTGRES_USER:-postgres}"
