/* What differs between the versions of Postgres that the extension is made for: the only file that asks for them. */
#ifndef BQCORE_PG_COMPAT_H
#define BQCORE_PG_COMPAT_H

#include "postgres.h"

/* 19 changes structs that are read and written here: settings, buffer headers. */
#if PG_VERSION_NUM < 160000 || PG_VERSION_NUM >= 190000
#error "bqcore needs Postgres 16, 17 or 18"
#endif

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/guc.h"

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

#endif
