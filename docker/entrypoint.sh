#!/bin/bash
# Make the cluster where there is none, then run the server. Variables as in Docker's official Postgres image:
# POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB, POSTGRES_HOST_AUTH_METHOD, POSTGRES_INITDB_ARGS, PGDATA;
# scripts (*.sql, *.sh) in /docker-entrypoint-initdb.d run once, on the new database.
set -euo pipefail

if [ "${1:-postgres}" != postgres ] && [ "${1#-}" = "$1" ]; then
	exec "$@"
fi
[ "${1:-}" = postgres ] && shift
sockets=/var/run/postgresql

if [ ! -s "$PGDATA/PG_VERSION" ]; then
	user=${POSTGRES_USER:-postgres}
	database=${POSTGRES_DB:-$user}
	method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
	if [ -z "${POSTGRES_PASSWORD:-}" ] && [ "$method" != trust ]; then
		echo 'no POSTGRES_PASSWORD: set it, or POSTGRES_HOST_AUTH_METHOD=trust to let everybody in' >&2
		exit 1
	fi
	# shellcheck disable=SC2086 # arguments, separated by spaces
	initdb --pgdata="$PGDATA" --username="$user" --pwfile=<(printf '%s\n' "${POSTGRES_PASSWORD:-}") \
		--auth-local=trust --auth-host="$method" --encoding=UTF8 --data-checksums ${POSTGRES_INITDB_ARGS:-} || {
		# half a cluster would be taken for a whole one
		find "$PGDATA" -mindepth 1 -delete
		exit 1
	}
	printf 'host all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"
	# no port before all is there: what waits for the server must not see this one
	pg_ctl --pgdata="$PGDATA" --wait --silent \
		--options="-c listen_addresses='' -c unix_socket_directories=$sockets" start
	if [ "$database" != postgres ]; then
		psql -v ON_ERROR_STOP=1 -q -U "$user" -d postgres -v name="$database" <<<'CREATE DATABASE :"name"'
	fi
	for script in /docker-entrypoint-initdb.d/*; do
		case "$script" in
		*.sh) bash "$script" ;;
		*.sql) psql -v ON_ERROR_STOP=1 -q -U "$user" -d "$database" -f "$script" ;;
		esac
	done
	pg_ctl --pgdata="$PGDATA" --mode=fast --wait --silent stop
fi

exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories="$sockets" "$@"
