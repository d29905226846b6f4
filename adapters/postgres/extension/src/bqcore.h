/* What the files of the extension share. Flow: build (train, encode) -> model_store -> scan -> rescore. */
#ifndef BQCORE_H
#define BQCORE_H

#include "postgres.h"

#include "access/amapi.h"
#include "access/genam.h"
#include "fmgr.h"
#include "nodes/execnodes.h"
#include "utils/rel.h"
#include "varatt.h"

#include "bqk.h"

#define BQCORE_VERSION "0.3.0"
#define BQ_DEFAULT_BITS 1
#define BQ_DEFAULT_EPSILON 1.25
#define BQ_DEFAULT_M 16 /* pgvector's own */
#define BQ_EF_CONSTRUCTION_UNSET 0

/* pgvector's own at 1 bit. More bits make comparisons that are worth more and cost a fraction of a float's, so their
 * default spends on a better graph what that saves, and searches need a smaller hnsw.ef_search. */
#define BqDefaultEfConstruction(bits) ((bits) == 1 ? 64 : 100)

/* ---- values ---- */

/* Types that can be indexed. */
typedef enum BqType
{
	BQ_VECTOR,  /* float32 coordinates */
	BQ_HALFVEC, /* float16 */
	BQ_TYPES
} BqType;

/* pgvector's vector and halfvec, which differ in their coordinates only. Their header promises `unused` to be zero
 * for ever, which tells them from our values. */
typedef struct BqVector
{
	int32 vl_len_; /* varlena header (do not touch directly!) */
	int16 dim;
	int16 unused;
	char x[FLEXIBLE_ARRAY_MEMBER]; /* float or uint16 (half), by type */
} BqVector;

#define BQ_TAG_CODE 0xB1
#define BQ_TAG_QUERY 0xB2
#define BQ_QUERY_BITS 8

/* First 8 bytes of every value of ours; `tag` lies where a vector has zero. */
typedef struct BqHeader
{
	int32 vl_len_; /* varlena header (do not touch directly!) */
	uint16 dim;
	uint8 tag;
	uint8 kind; /* bits | metric << 4 */
} BqHeader;

/* Stored in the index in place of the vector. */
typedef struct BqCode
{
	BqHeader h;
	bqk_factors factors;
	uint8 code[FLEXIBLE_ARRAY_MEMBER];
} BqCode;

/* The scan's argument; never stored. */
typedef struct BqQuery
{
	BqHeader h;
	bqk_query query;
	int8 z[FLEXIBLE_ARRAY_MEMBER];
} BqQuery;

#define BqKind(bits, metric) ((uint8) ((bits) | (metric) << 4))
#define BqBits(h) ((h)->kind & 15)
#define BqMetric(h) ((h)->kind >> 4)
#define BQ_CODE_SIZE(dim, bits) (offsetof(BqCode, code) + bqk_nbytes(dim, bits))
#define BQ_QUERY_SIZE(dim) (offsetof(BqQuery, z) + bqk_query_nbytes(dim, BQ_QUERY_BITS))

/* ---- pgvector's side ---- */

/* Words that pgvector may come to read behind its structs. */
#define BQ_RESERVED 8

/* Prefix of pgvector's HnswOptions, which reads m and ef_construction from rd_options; bits are ours. */
typedef struct BqOptions
{
	int32 vl_len_; /* varlena header (do not touch directly!) */
	int m;
	int efConstruction;
	int bits;
	int rescoreColumn; /* offset of the name, 0 without */
} BqOptions;

/* pgvector's HnswTypeInfo, the same from 0.7.0 on. A later one may append hooks and would look for them here: zeros say
 * that there are none. */
typedef struct BqHnswTypeInfo
{
	int maxDimensions;
	Datum (*normalize)(PG_FUNCTION_ARGS);
	void (*checkValue)(Pointer v);
	void *reserved[BQ_RESERVED];
} BqHnswTypeInfo;

/* What support function 3 returns: pgvector's part, then ours. */
typedef struct BqTypeInfo
{
	BqHnswTypeInfo hnsw;
	int metric;
	BqType type;
} BqTypeInfo;

#define BQ_DISTANCE_PROC 1
#define BQ_NORM_PROC 2
#define BQ_TYPE_INFO_PROC 3

/* inner.c */
/* pgvector's hnsw, refused if its interface is unknown. */
extern const IndexAmRoutine *BqInner(void);
/* The same for the handler, which also runs when a table is only read or an index dropped: as it is. */
extern const IndexAmRoutine *BqLoadInner(void);
extern bool BqKnowsInner(void);
extern void BqCheckPgvector(void);
extern void BqWarnOfPgvector(void);
extern bool BqMayBuildInParallel(void);
/* Whether scans walk by themselves: bqcore.own_walk is on, and this pgvector's pages are known. */
extern bool BqMayWalk(void);
extern void BqCheckIvfflat(void);
extern const char *BqPgvectorVersion(void);
extern int BqEfSearch(void);
extern int64 BqMaxScanTuples(void);
extern double BqScanMemMultiplier(void);
/* pgvector's hnsw.iterative_scan */
typedef enum BqIterative
{
	BQ_ITERATIVE_OFF,
	BQ_ITERATIVE_RELAXED,
	BQ_ITERATIVE_STRICT
} BqIterative;
extern BqIterative BqIterativeScan(void);
extern int BqSwapIterative(BqIterative mode);
extern void BqRestoreIterative(int old);

/* bqcore.c */
extern int bq_rescore;
extern double bq_epsilon;
extern bool bq_own_walk;
extern const BqTypeInfo *BqGetTypeInfo(Relation index);
extern const char *BqMetricName(int metric);
extern int BqMetricByName(const char *name);

/* codes.c */
extern BqCode *BqEncode(const bqk_model *model, const BqVector *vec, BqType type);
extern BqCode *BqTryEncode(const bqk_model *model, const BqVector *vec, BqType type);
extern BqQuery *BqPrepare(const bqk_model *model, const BqVector *vec, BqType type);
/* The coordinates as floats: those of the value itself, or converted into buf (dim floats). */
extern const float *BqCoordinates(const BqVector *vec, uint32 dim, BqType type, float *buf);
/* Whether a vector is indexed at all: under cosine a zero vector has no direction. */
extern bool BqHasCode(int metric, const BqVector *vec, BqType type);
extern void BqCheckStatus(int status);
extern Datum BqNormalize(PG_FUNCTION_ARGS);

/* centroid.c */
#define BQ_DEFAULT_SEED 42
/* Sum of the vectors that a centroid is the mean of. */
typedef struct BqSum
{
	uint32 dim;
	int metric; /* under cosine vectors count with length 1, and zero vectors not at all */
	uint64 rows;
	double *sum;
} BqSum;

extern void BqSumBegin(BqSum *s, uint32 dim, int metric);
extern void BqSumAdd(BqSum *s, const float *x);
extern bqk_model *BqSumModel(const BqSum *s, int bits, uint64 seed);

/* build_context.c */
/* What an index build encodes with. */
typedef struct BqBuildContext
{
	const bqk_model *model; /* NULL outside a build */
	BqType type;
} BqBuildContext;

extern void BqDefineBuildSegment(void);
extern BqBuildContext BqSetBuildContext(BqBuildContext context);
extern const BqBuildContext *BqGetBuildContext(void);
struct dsm_segment;
extern struct dsm_segment *BqShareBuildContext(const BqBuildContext *context);
extern void BqUnshareBuildContext(struct dsm_segment *segment);

/* model_store.c */
extern void BqModelStore(Relation index, ForkNumber fork, const bqk_model *model);
extern void BqModelReplace(Relation index, const bqk_model *model);
extern const bqk_model *BqModelGet(Relation index);
extern const struct varlena *BqColumnModelGet(Relation heap, Relation index);
extern bytea *BqModelRead(Relation index);
extern void BqBuiltWith(Relation index, int *m, int *efConstruction);
extern BlockNumber BqModelPages(Relation index);
extern bool BqIsModelPage(const char *page);

/* rescore_column.c */
extern AttrNumber BqRescoreAttribute(Relation heap, Relation index);
extern const struct varlena *BqRescoreModel(Relation heap, Relation index, AttrNumber attnum);

/* build.c, insert.c */
extern IndexBuildResult *BqBuild(Relation heap, Relation index, IndexInfo *indexInfo);
extern void BqBuildEmpty(Relation index);
extern bool BqInsert(Relation index, Datum *values, bool *isnull, ItemPointer tid, Relation heap,
					 IndexUniqueCheck checkUnique, bool indexUnchanged, IndexInfo *indexInfo);
/* move.c */
extern IndexBulkDeleteResult *
BqBulkDelete(IndexVacuumInfo *info, IndexBulkDeleteResult *stats, IndexBulkDeleteCallback callback, void *state);
extern IndexBulkDeleteResult *BqVacuumCleanup(IndexVacuumInfo *info, IndexBulkDeleteResult *stats);
/* policies.c, cost.c */
struct PlannerInfo;
struct IndexOptInfo;
struct IndexPath;
extern bool BqMayTell(const struct PlannerInfo *root, const struct IndexOptInfo *index);
extern void BqCostEstimate(struct PlannerInfo *root, struct IndexPath *path, double loopCount, Cost *startup,
						   Cost *total, Selectivity *selectivity, double *correlation, double *pages);

/* scan.c */
extern IndexScanDesc BqBeginScan(Relation index, int nkeys, int norderbys);
extern void BqScanExpect(IndexScanDesc scan, int64 rows);
extern void BqRescan(IndexScanDesc scan, ScanKey keys, int nkeys, ScanKey orderbys, int norderbys);
extern bool BqGetTuple(IndexScanDesc scan, ScanDirection dir);
extern void BqEndScan(IndexScanDesc scan);

/* handler.c */
extern void BqInitOptions(void);
extern bool BqIsOurs(Relation index);
extern Relation BqOpenIndex(Oid indexOid, LOCKMODE lockmode);
extern Relation BqOpenWithTable(Oid indexOid, LOCKMODE lockmode, Relation *heap);

#endif
