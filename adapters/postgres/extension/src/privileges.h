/* Who may ask, and with whose rights the functions of an index run. */
#ifndef BQCORE_PRIVILEGES_H
#define BQCORE_PRIVILEGES_H

#include "bqcore.h"

/* Who ran before. */
typedef struct BqCaller
{
	Oid user;
	int security;
	int nest;
} BqCaller;

/* Whether this session may run them as the owner, without which BqRunAsOwner is an error. */
extern bool BqMayRunAsOwner(Relation heap, Relation index);
/* Expressions and predicates of the index run as the table's owner from here on, and can do no lasting harm. After an
 * error the (sub)transaction's end restores the caller. */
extern BqCaller BqRunAsOwner(Relation heap, Relation index);
extern void BqRunAsCaller(const BqCaller *caller);
/* The index's expressions before functions are put in or evaluated, NIL for a column. */
extern List *BqStoredExpressions(Relation index);
/* As BuildIndexInfo, but names in the index's functions are looked up now, under the present search_path. */
extern IndexInfo *BqIndexInfo(Relation index);
/* What a model or a recall tells is drawn from all rows of the table: it is for those who may read them all. */
extern void BqCheckReadable(Relation index);

#endif
