/* Declarations of the kernel library. cffi parses this file as it is, so it
 * holds declarations only: no conditionals, no includes. Formulas and symbols:
 * docs/notation.md; byte layouts: docs/code-format.md. */

#define BQK_OK 0
#define BQK_EINVAL 1
#define BQK_EUNSUPPORTED 2
#define BQK_EZERO 3
#define BQK_ERANGE 4
#define BQK_EFORMAT 5
#define BQK_EVERSION 6
#define BQK_ECHECKSUM 7

#define BQK_L2 0
#define BQK_IP 1
#define BQK_COSINE 2

#define BQK_ROTATION_NONE 0
#define BQK_ROTATION_HADAMARD 1

#define BQK_MAX_DIM 16000
#define BQK_MAX_CODEWORDS 65536
#define BQK_MODEL_VERSION 1
#define BQK_MODEL_HEADER_NBYTES 64

/* What encodes a vector. Pointers are borrowed; `signs` is NULL without rotation. */
typedef struct bqk_model
{
	uint32_t dim;
	uint8_t bits;
	uint8_t metric;
	uint8_t rotation;
	uint64_t seed;
	uint64_t n_trained;
	const float *centroid;
	const float *signs;
} bqk_model;

/* Per-code corrective factors, in the unit of the metric:
 * distance ~ g_weight * f_add + g_add + f_rescale * <level, query>. */
typedef struct bqk_factors
{
	float f_add;
	float f_rescale;
} bqk_factors;

/* Per-query terms; the query itself is the bqk_query_nbytes(dim, bits) beside it, in the order of the kernels.
 * bits: 4 or 8 of every coordinate, or 32 for float32, where delta and sum_z are 0. g_weight: 1, but for ip
 * s = <q,c> / |c|^2, c the centroid, and the query is then R(q - s c): estimates are linear in q. */
typedef struct bqk_query
{
	float g_add;
	float g_error;
	float delta;
	int32_t sum_z;
	int32_t bits;
	float g_weight;
} bqk_query;

/* Instruction sets by rising speed: "scalar", then "avx2", "avx512" on x86-64 or "neon" on AArch64.
 * name: those of this build, NULL after the last. select: NULL takes the best one. */
const char *bqk_isa_name(size_t i);
int bqk_isa_supported(const char *name);
int bqk_isa_select(const char *name);
const char *bqk_isa_active(void);

const char *bqk_strerror(int status);

/* Seeded rotation: 4 rounds of sign flip, fast Hadamard transform and Givens. */
size_t bqk_signs_count(size_t dim);
int bqk_signs_init(size_t dim, uint64_t seed, float *signs);
int bqk_rotate(const bqk_model *model, const float *x, size_t n, float *out);
/* The inverse: its steps in reverse order. */
int bqk_unrotate(const bqk_model *model, const float *x, size_t n, float *out);

/* Sizes in bytes. A code has no padding beyond its last byte. Supported are the widths that every function takes: 1,
 * 2, 4 and 8. Codes of 3, 5, 6 and 7 bits are bit planes, lowest first, each of them a code of 1 bit: bqk_encode
 * writes them, bqk_sym and bqk_error_n read them; queries are asked plane by plane. */
int bqk_bits_supported(int bits);
size_t bqk_code_nbytes(size_t dim, int bits);
size_t bqk_query_nbytes(size_t dim, int query_bits);

/* Encode n vectors (row-major, dim floats each). `work` holds dim floats.
 * On BQK_EZERO (cosine) or BQK_ERANGE, *bad is the row at fault. */
int bqk_encode(const bqk_model *model, const float *x, size_t n, uint8_t *codes, bqk_factors *factors, float *work,
			   size_t *bad);
/* Prepare one query at 4, 8 or 32 bits; z holds bqk_query_nbytes(dim, query_bits) and is aligned to 4. A zero vector
 * is a query too. */
int bqk_query_prepare(const bqk_model *model, const float *q, int query_bits, bqk_query *query, void *z, float *work);

/* Integer kernels over n codes of `stride` bytes.
 * dot: sum of level index times z;  sym: sum of (2 ua - M)(2 ub - M), M = 2^bits - 1. */
int bqk_dot(int bits, size_t dim, const uint8_t *codes, size_t stride, size_t n, const int8_t *z, int32_t *out);
int bqk_sym(int bits, size_t dim, const uint8_t *codes, size_t stride, size_t n, const uint8_t *code, int32_t *out);

/* Distances, in the unit of the metric (l2: squared; ip: negative inner product; cosine: 1 - cos). */
float bqk_estimate_sym(int bits, int metric, size_t dim, int32_t sym, const bqk_factors *a, const bqk_factors *b);
/* Kernel and estimate for one code, the pair that a graph walk asks for; arguments are not checked. */
float
bqk_distance(int bits, size_t dim, const bqk_query *query, const void *z, const uint8_t *code, const bqk_factors *f);
float bqk_distance_sym(int bits, int metric, size_t dim, const uint8_t *code_a, const bqk_factors *a,
					   const uint8_t *code_b, const bqk_factors *b);
/* Half width of the bound on |estimate - distance| per unit of eps0; self = sym of the code with itself. */
float bqk_error(int bits, int metric, size_t dim, int32_t self, const bqk_factors *f, const bqk_query *query);
/* estimate n codes against one query: out[i] as bqk_distance. */
int bqk_estimate_n(const bqk_model *model, const bqk_query *query, const void *z, const uint8_t *codes,
				   const bqk_factors *factors, size_t n, float *out);
/* error of n codes against one query: out[i] as bqk_error. */
int bqk_error_n(const bqk_model *model, const bqk_query *query, const uint8_t *codes, const bqk_factors *factors,
				size_t n, float *out);

/* Rows x[n][dim] times rows of a matrix[rows][dim]: out[n][rows]. */
int bqk_matmul(const float *x, size_t n, const float *matrix, size_t rows, size_t dim, float *out);
/* Flip signs[n][n_bits] (+-1) while <g,s>^2 / s'Gs grows, at most max_sweeps times over all of them; gram is G,
 * symmetric. On return gs = <g,s> and sgs = s'Gs of each code. `work` holds n_bits floats. */
int bqk_flip(const float *gram, const float *g, size_t n, size_t n_bits, size_t max_sweeps, int8_t *signs, float *work,
			 double *gs, double *sgs);
/* Two planes of ceil(dim / 8) bytes, signs and strong bits: out[n] = sum of +-1 (agreement) times 1, 2 or 4 (neither,
 * one, both strong). */
int bqk_sign_magnitude_sym(size_t dim, const uint8_t *codes, size_t n, const uint8_t *code, int32_t *out);
/* Product quantization. Subspace m has the coordinates offsets[m] to offsets[m + 1] - 1; coordinate j of its
 * codeword k is codebooks[j n_codewords + k]. n_codewords is a multiple of 16, at most BQK_MAX_CODEWORDS.
 * assign: codes[n][n_subspaces] of targets (n rows of offsets[n_subspaces] floats) that minimise
 * |error|^2 + weight <error, direction>^2 by coordinate descent over subspaces, at most max_sweeps times.
 * start 0: from the nearest codeword of each subspace; 1: from the codes given. */
int bqk_pq_assign(const float *codebooks, const uint32_t *offsets, size_t n_subspaces, size_t n_codewords,
				  const float *targets, const float *directions, const float *weights, size_t n, int start,
				  size_t max_sweeps, uint16_t *codes);
/* Sum over subspaces of the entry that each code selects in a query's LUT; code_bits 4 or 8, a code of
 * ceil(n_subspaces code_bits / 8) bytes, luts[n_queries][n_subspaces][2^code_bits], out[n_queries][n].
 * Entries of 8 bits add up exactly: 255 n_subspaces < 2^32. */
int bqk_lut_scan(int code_bits, const uint8_t *codes, size_t n, size_t n_subspaces, const uint8_t *luts,
				 size_t n_queries, uint32_t *out);
int bqk_lut_scan_float(int code_bits, const uint8_t *codes, size_t n, size_t n_subspaces, const float *luts,
					   size_t n_queries, float *out);

/* Serialised model. Reading checks magic, version, length, checksum and every field. */
size_t bqk_model_nbytes(const bqk_model *model);
int bqk_model_write(const bqk_model *model, uint8_t *buf, size_t nbytes);
/* Fills *model; its centroid points into buf (4-byte aligned), its signs are NULL. */
int bqk_model_read(const uint8_t *buf, size_t nbytes, bqk_model *model);
/* Total size announced by the first BQK_MODEL_HEADER_NBYTES bytes, 0 if they are not a model. */
size_t bqk_model_announced(const uint8_t *buf, size_t nbytes);
uint32_t bqk_crc32c(const uint8_t *buf, size_t nbytes, uint32_t crc);

/* The m columns of a matrix of dim rows, as integers (native/src/products.h): values[bqk_columns_count(dim, m)],
 * scale[m]. Pointers are borrowed. */
typedef struct bqk_columns
{
	uint32_t dim;
	uint32_t m;
	const int16_t *values;
	const float *scale;
} bqk_columns;

size_t bqk_columns_count(size_t dim, size_t m);
void bqk_columns_pack(const float *matrix, size_t dim, size_t m, int16_t *values, float *scale);
/* out, n rows of m floats: n rows of dim floats times the matrix. A row's result does not depend on the rows beside it,
 * nor on the instruction set. `work` holds bqk_rounded_work(dim, m) floats. */
size_t bqk_rounded_work(size_t dim, size_t m);
void bqk_project(const float *x, size_t n, const bqk_columns *columns, float *out, float *work);

/* Trellis-coded quantization of `dim` axes, axis i at bits[i] (1 to 8, descending); its levels are deviation[i] (> 0)
 * times those of native/src/trellis.h. Layout of a code: docs/code-format.md. Pointers are borrowed. */
typedef struct bqk_trellis
{
	uint32_t dim;
	uint32_t code_nbytes;
	const uint8_t *bits;
	const float *deviation;
} bqk_trellis;

/* Encode n rows of dim floats in `rounds` searches of levels and scale. levels: n rows of dim floats, what decoding
 * gives; rescale[n]: |o| / |levels|. `work` holds bqk_trellis_work(dim) floats. */
size_t bqk_trellis_work(size_t dim);
int bqk_trellis_encode(const bqk_trellis *t, const float *o, size_t n, int rounds, uint8_t *codes, float *rescale,
					   float *levels, float *work);
/* Levels of n codes, n rows of dim floats. */
int bqk_trellis_decode(const bqk_trellis *t, const uint8_t *codes, size_t n, float *levels);

/* out, n rows of length 1: norms and products with their inverse are float64, rounded once. BQK_EZERO: a row is zero.
 */
int bqk_normalize(const float *x, size_t n, size_t dim, float *out);

/* SAQ's model (bqcore/saq.py). Pointers are borrowed. */
typedef struct bqk_saq
{
	uint32_t dim;
	uint32_t n_lists;
	int metric;
	float dropped;              /* what a near query has of the part of a residual that no axis holds */
	const float *centroids;     /* n_lists rows of dim */
	const bqk_columns *lists;   /* the centroids as columns; NULL for one list */
	const float *half_norms;    /* |centroid|^2 / 2; unused for one list */
	const bqk_columns *axes;    /* residuals times these are coordinates */
	const bqk_trellis *trellis; /* of as many axes */
	const float *share;         /* per axis, what a near query has of a coordinate */
	const float *length;        /* per axis, squared length of its vector back */
	const float *centroid_back; /* n_lists rows: products of the centroids with the vectors back; unused under l2 */
} bqk_saq;

/* Encode n rows of dim floats: codes, their lists, and the two factors in float32. `work` holds bqk_saq_work() floats.
 */
size_t bqk_saq_work(const bqk_saq *saq);
int bqk_saq_encode(const bqk_saq *saq, const float *x, size_t n, int rounds, uint8_t *codes, uint16_t *lists,
				   float *f_add, float *f_rescale, float *work);

/* out[n]: of up to 256 points of the plane (x, y pairs in turn) the first that is nearest to (x[i], y[i]). */
int bqk_nearest_pairs(const float *x, const float *y, size_t n, const float *pairs, size_t n_pairs, uint8_t *out);

/* Exhaustive search in stages over blocks of BQK_SCAN_BLOCK codes: sums of look-ups over some of a code's bits bound
 * its distance from below; codes whose bound can still be among the k best are estimated in full. Layout: fastscan.h.
 */
#define BQK_SCAN_BLOCK 64
#define BQK_SCAN_NONE 0xffffffff
#define BQK_SCAN_LOOKUPS 65536
/* Blocks of more bytes lie beyond the caches. */
#define BQK_SCAN_CACHED_NBYTES 8388608
/* How a whole code's product with the query is had: levels at 1, 2, 4 or 8 bits; bit planes; trellis; 4-bit look-ups.
 */
#define BQK_SCAN_LEVELS 1
#define BQK_SCAN_PLANES 2
#define BQK_SCAN_TRELLIS 3
#define BQK_SCAN_LUT4 4

/* Copies bits of codes into blocks. ids[n_blocks][BQK_SCAN_BLOCK] says which code lies where, BQK_SCAN_NONE that none
 * does; bit j of row i is bit source_bits[8 i + j] of the code, or zero for BQK_SCAN_NONE.
 * blocks[n_blocks][n_rows][BQK_SCAN_BLOCK]. */
int bqk_scan_pack(const uint8_t *codes, size_t code_nbytes, const uint32_t *ids, size_t n_blocks,
				  const uint32_t *source_bits, size_t n_rows, uint8_t *blocks);
/* Rounds look-up tables to 8 bits: sum over look-ups of values ~ top - delta * sum of entries, each look-up within
 * delta / 2. A trellis row has four look-ups, low and high nibble of the stored and of the derived bits, another row
 * two. values[2 n_rows + 2 n_trellis][16], luts the same. */
int bqk_scan_lut(const float *values, size_t n_rows, size_t n_trellis, uint8_t *luts, float *delta, float *top);
/* values[n_lookups][16]: sums of the weights[n_lookups][4] of the bits that are set. */
void bqk_scan_values(const float *weights, size_t n_lookups, float *values);

/* What the bits in the blocks say about the product of a whole code with a query of `dim` coordinates:
 *     kq ~ sum over axes of base q + sum over bits in use of coef q[axis], bits in the order of the look-ups,
 * axis BQK_SCAN_NONE for none. variance and reach of an axis: mean square and largest magnitude of what is missing. */
typedef struct bqk_scan_stage
{
	size_t n_rows;
	size_t n_trellis;
	size_t dim;
	const uint32_t *axis;
	const float *coef;
	const float *base;
	const float *variance;
	const float *reach;
} bqk_scan_stage;

/* Consecutive blocks whose codes share a list, with the limits of their factors: f_add, and scale = -f_rescale >= 0. */
typedef struct bqk_segment
{
	uint32_t block;
	uint32_t n_blocks;
	uint32_t list;
	float f_add_min;
	float f_add_max;
	float scale_min;
	float scale_max;
} bqk_segment;

/* What is searched. ids: which code lies where, NULL where code i lies at i. bits: of a level, or of a whole trellis
 * code; dim: axes, or look-ups. levels: bqk_scan_levels of the trellis.
 * factor_bins: NULL, or the limits of the bins in which a further row of each block says that a code's factors are,
 * with 1 / scale in the low nibble and f_add / scale in the high one: the least and the largest 1 / scale and the least
 * and the largest f_add / scale of each, [4][16]. factors (NULL: 0 and -1), lists (NULL: 0) and codes are by id, of n
 * codes. */
typedef struct bqk_scan
{
	size_t n;
	size_t n_rows;
	size_t n_trellis;
	const uint8_t *blocks;
	const uint32_t *ids;
	const bqk_segment *segments;
	size_t n_segments;
	const bqk_factors *factors;
	const uint16_t *lists;
	const uint8_t *codes;
	size_t code_nbytes;
	int kind;
	int bits;
	size_t dim;
	const bqk_trellis *trellis;
	const float *levels;
	const float *factor_bins;
} bqk_scan;

/* distance = g_weight[list] * f_add + g_add[list] + f_rescale * kq, and kq = unit * (dot - shift) + offset of the whole
 * code, or sum of look-ups + offset; of its bits in the blocks kq <= top - delta * sum, up to what the caller allows.
 * g_weight may be negative. */
typedef struct bqk_scan_query
{
	const uint8_t *luts;
	float delta;
	float top;
	const void *z;
	float unit;
	float shift;
	float offset;
	const float *g_add;
	const float *g_weight;
} bqk_scan_query;

/* The k best codes of some segments for n_queries queries, best first, ties by id: ids[n_queries][k], BQK_SCAN_NONE
 * where there are fewer, and their distances; n_full[n_queries] counts the codes estimated in full, again where a query
 * is searched again (scan.c). A code's distance is its estimate, or its bound where that is larger, so that results do
 * not depend on the order of the search; codes in no order are searched fastest. filter: NULL, or a bitmap of ids. work
 * holds bqk_scan_work(n_queries, k) bytes, aligned to 8. */
size_t bqk_scan_work(size_t n_queries, size_t k);
int bqk_scan_search(const bqk_scan *scan, size_t first_segment, size_t n_segments, const bqk_scan_query *queries,
					size_t n_queries, size_t k, const uint8_t *filter, void *work, float *distances, uint32_t *ids,
					uint64_t *n_full);
/* The same of the ids in a list, estimated in full. */
int bqk_scan_listed(const bqk_scan *scan, const uint32_t *listed, size_t n_listed, const bqk_scan_query *queries,
					size_t n_queries, size_t k, void *work, float *distances, uint32_t *ids);
/* Fills luts, delta and top of a query. With eps0 standard deviations, or, where that is less, the largest possible
 * error, top bounds what the bits leave open and the rounding of look-ups. work holds bqk_scan_prepare_work(stage)
 * floats. */
size_t bqk_scan_prepare_work(const bqk_scan_stage *stage);
int bqk_scan_prepare(const bqk_scan_stage *stage, const float *q, float eps0, uint8_t *luts, float *delta, float *top,
					 float *work);
/* Prepares a query of axes for BQK_SCAN_TRELLIS: z, bqk_scan_trellis_nbytes(t) bytes, aligned to 4, and zero before its
 * first query of this trellis. */
size_t bqk_scan_trellis_nbytes(const bqk_trellis *t);
void bqk_scan_trellis_query(const bqk_trellis *t, const float *q, void *z);
/* Levels of axes of 1, 2, ... bits, up to those of the trellis: bqk_scan_levels_count(t) floats. */
size_t bqk_scan_levels_count(const bqk_trellis *t);
void bqk_scan_levels(const bqk_trellis *t, float *levels);
/* Levels of an axis of `bits` bits and deviation 1: 2^(bits + 1) floats, ascending. */
int bqk_trellis_levels(int bits, float *levels);

/* How a query of dim coordinates becomes what the kernels take. In this order, each step only where its pointer is set:
 * scaled to unit length; g_add of every list from its distance |q - c|^2 times square, or else constant - <q, c>; less
 * origin; times rows of a matrix, matrix[n_axes][dim]. Then `rabitq`, a model of n_axes dimensions, makes z of 8 bits,
 * and without centroids g_add and g_weight; without it z is bqk_scan_trellis_query's. `linear`: with centroids,
 * g_weight of a list is <q, c> / |c|^2 and not 1, and origin, the one list's centroid, is taken off so many times. */
typedef struct bqk_scan_model
{
	size_t dim;
	size_t n_axes;
	int unit;
	size_t n_lists;
	const float *centroids;
	float square;
	float constant;
	int linear;
	const float *origin;
	const float *matrix;
	const bqk_model *rabitq;
	const bqk_trellis *trellis;
	float half; /* of rabitq: half the largest level */
} bqk_scan_model;

/* Scan, stage and model of one index. A tier, which candidates are rescored from, has no stage and no blocks. */
typedef struct bqk_scan_index
{
	const bqk_scan *scan;
	const bqk_scan_stage *stage;
	const bqk_scan_model *model;
} bqk_scan_index;

/* Prepares queries, n_queries rows of dim floats: fills what their pointers point to. work holds
 * bqk_scan_queries_work(index) floats. On BQK_ERANGE a query is not finite or too large. */
size_t bqk_scan_queries_work(const bqk_scan_index *index);
int bqk_scan_queries(const bqk_scan_index *index, const float *q, size_t n_queries, float eps0, bqk_scan_query *queries,
					 float *work);

/* Memory of one search: queries with their pointers set, work of bqk_scan_queries_work floats, search of
 * bqk_scan_work(n_queries, n_candidates), and found distances, ids [n_queries][n_candidates] and counts. */
typedef struct bqk_scan_room
{
	bqk_scan_query *queries;
	float *work;
	void *search;
	float *distances;
	uint32_t *ids;
	uint64_t *n_full;
} bqk_scan_room;

/* A whole search: prepares queries, unless they are, finds n_candidates of each among all, among those of a filter, or,
 * where listed is set, among the listed; with a tier rescores them (tier_room: of one query), and writes the k
 * best of each: distances and ids [n_queries][k], infinity and -1 where there are fewer, n_full[n_queries]. */
int bqk_scan_find(const bqk_scan_index *index, const bqk_scan_room *room, const bqk_scan_index *tier,
				  const bqk_scan_room *tier_room, const float *q, size_t n_queries, float eps0, int prepared,
				  size_t n_candidates, size_t k, const uint8_t *filter, const uint32_t *listed, size_t n_listed,
				  double *distances, int64_t *ids, int64_t *n_full);
