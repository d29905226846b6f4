/* What differs between the versions of Postgres that the extension is made for: the only file that asks for them. */
#ifndef BQCORE_PG_COMPAT_H
#define BQCORE_PG_COMPAT_H

#include "postgres.h"

/* 19 changes structs that are read and written here: settings, headers of buffers. */
#if PG_VERSION_NUM < 160000 || PG_VERSION_NUM >= 190000
#error "bqcore needs Postgres 16, 17 or 18"
#endif

#include "access/genam.h"
#include "access/relscan.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/pathnodes.h"
#include "utils/guc.h"
#include "utils/rel.h"

/* A library tells its name and version from 18 on. */
#if PG_VERSION_NUM >= 180000
#define BQ_MODULE_MAGIC(name_, version_) PG_MODULE_MAGIC_EXT(.name = name_, .version = version_)
#define BQ_MODULES_TELL_VERSIONS true
#else
#define BQ_MODULE_MAGIC(name_, version_) PG_MODULE_MAGIC
#define BQ_MODULES_TELL_VERSIONS false
#endif

/* Version of a library that this session has loaded; NULL if it does not tell. */
static inline const char *
BqModuleVersion(const char *wanted)
{
#if PG_VERSION_NUM >= 180000
	for (DynamicFileList *file = get_first_loaded_module(); file; file = get_next_loaded_module(file))
	{
		const char *path, *name, *version;

		get_loaded_module_details(file, &path, &name, &version);
		if (name && strcmp(name, wanted) == 0)
			return version;
	}
#endif
	return NULL;
}

/* Until the caller's GUC nest level ends, names mean objects of Postgres' own or of the session's temporary schema. */
static inline void
BqRestrictSearchPath(void)
{
#if PG_VERSION_NUM >= 170000
	RestrictSearchPath();
#else
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
							 false);
#endif
}

/* An ordered scan without EXPLAIN's counters. */
static inline IndexScanDesc
BqIndexBeginScan(Relation heap, Relation index, Snapshot snapshot)
{
#if PG_VERSION_NUM >= 180000
	return index_beginscan(heap, index, snapshot, NULL, 0, 1);
#else
	return index_beginscan(heap, index, snapshot, 0, 1);
#endif
}

/* EXPLAIN's number of index searches, from 18 on. */
static inline void
BqCountSearch(IndexScanDesc scan)
{
#if PG_VERSION_NUM >= 180000
	if (scan->instrument)
		scan->instrument->nsearches++;
#endif
}

static inline void
BqShareInstrument(IndexScanDesc inner, IndexScanDesc scan)
{
#if PG_VERSION_NUM >= 180000
	inner->instrument = scan->instrument;
#endif
}

/* Marks a path as disabled, from 18 on: before, its cost alone says so. */
static inline void
BqDisablePath(Path *path)
{
#if PG_VERSION_NUM >= 180000
	path->disabled_nodes = 2;
#endif
}

#endif
