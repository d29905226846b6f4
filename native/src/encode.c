/* RaBitQ encoding (Gao & Long, SIGMOD 2024; extended to several bits, SIGMOD 2025). */
#include "bqk.h"

#include <math.h>
#include <string.h>

/* Grid steps tried, as fractions of max|x| / (M / 2), by bits. Gaussian coordinates are best cut off at 2.0, 2.1, 2.5,
 * 2.9, 3.3, 3.6 and 3.9 sigma with 2 to 8 bits (Max 1960), and max|x| lies between 2.5 and 4.5 sigma for
 * 25 <= dim <= 16000; the last fraction leaves nothing cut off. Neighbouring steps differ by less than 1e-4 of
 * cosine at the best one. */
#define STEP_COUNT 16
#define STEP_LAST 1.05f
static const float step_first[] = {0.0f, 0.0f, 0.38f, 0.41f, 0.45f, 0.55f, 0.65f, 0.72f, 0.80f};

int
bqk_bits_supported(int bits)
{
	return bqk_bits_ok(bits);
}

size_t
bqk_code_nbytes(size_t dim, int bits)
{
	return bqk_planes(bits) ? (size_t) bits * bqk_nbytes(dim, 1) : bqk_nbytes(dim, bits);
}

static int
model_ok(const bqk_model *m)
{
	return m->dim > 0 && m->dim <= BQK_MAX_DIM && (bqk_bits_ok(m->bits) || bqk_planes(m->bits)) &&
		   m->metric <= BQK_COSINE && m->centroid != NULL && (m->rotation == BQK_ROTATION_NONE) == (m->signs == NULL);
}

static void
pack_planes(const float *x, size_t dim, int bits, float inv_t, uint8_t *code)
{
	size_t plane_nbytes = bqk_nbytes(dim, 1);

	memset(code, 0, (size_t) bits * plane_nbytes);
	for (size_t i = 0; i < dim; i++)
	{
		int u = bqk_level(x[i], bits, inv_t);

		for (int p = 0; p < bits; p++)
			code[(size_t) p * plane_nbytes + i / 8] |= (uint8_t) ((u >> p & 1) << (i % 8));
	}
}

/* Chooses the grid step by the largest cosine between levels and x; returns <k,x> at that step. */
static float
best_step(const bqk_kernels *kern, const float *x, size_t dim, int bits, float max, float *inv_t)
{
	float first = step_first[bits], gap = (STEP_LAST - first) / (STEP_COUNT - 1);
	float unit = max / (0.5f * (float) ((1 << bits) - 1));
	float best = -1.0f, best_kx = 0.0f;

	for (int i = 0; i < STEP_COUNT; i++)
	{
		float inv = 1.0f / (unit * (first + gap * (float) i));
		float kx, kk, score;

		kern->score(x, dim, bits, inv, &kx, &kk);
		score = kx * (kx / kk); /* kx * kx may overflow */
		if (score > best)
		{
			best = score;
			best_kx = kx;
			*inv_t = inv;
		}
	}
	return best_kx;
}

/* Weight of the inner product in the distance: |x-q|^2 has -2 <x,q>, the others -1. */
static inline float
metric_weight(int metric)
{
	return metric == BQK_L2 ? -2.0f : -1.0f;
}

/* Squared norms below this leave room for the sum of two of them and twice their product in float32, also when
 * the estimated product is off. */
#define MAX_NORM2 (3.4e38f / 8.0f)

/* The residual of x, normalised first under cosine, into work. Very short and very long vectors are scaled by a power
 * of two first, because 1 / |x| would leave float32's range. */
static int
take_residual(const bqk_kernels *kern, const bqk_model *m, const float *x, int allow_zero, float *work)
{
	float scale = 1.0f;

	if (m->metric == BQK_COSINE)
	{
		double n2 = kern->norm2(x, m->dim);

		if (!(n2 > 0.0) && !allow_zero)
			return BQK_EZERO;
		if (n2 > 0.0 && (n2 < 1e-60 || n2 > 1e60))
		{
			float power = n2 < 1.0 ? 0x1p100f : 0x1p-100f;

			for (size_t i = 0; i < m->dim; i++)
				work[i] = x[i] * power;
			x = work;
			n2 = kern->norm2(x, m->dim);
		}
		scale = n2 > 0.0 ? (float) (1.0 / sqrt(n2)) : 1.0f;
	}
	kern->residual(x, scale, m->centroid, m->dim, work);
	return BQK_OK;
}

/* What is taken off a query under ip is its share of the centroid, not the centroid: the projection leaves the least
 * error, |q - s c|, and estimates that are linear in q, so that their order does not depend on its length. Each step is
 * exact where q is multiplied by a power of two, or by -1. */
static void
take_projection(const bqk_kernels *kern, const bqk_model *m, const float *q, bqk_query *query, float *work)
{
	const float *c = m->centroid;
	float product = kern->dotf(q, c, m->dim), s = bqk_share(kern, product, c, m->dim);

	for (size_t i = 0; i < m->dim; i++)
		work[i] = q[i] - s * c[i];
	query->g_add = -product;
	query->g_weight = s;
}

static int
encode_one(const bqk_kernels *kern, const bqk_model *m, const float *x, uint8_t *code, bqk_factors *f, float *work)
{
	size_t dim = m->dim;
	size_t nbytes = bqk_code_nbytes(dim, m->bits);
	float add, kx, inv_t = 0.0f;
	bqk_sums s;

	if (take_residual(kern, m, x, 0, work) != BQK_OK)
		return BQK_EZERO;
	add = m->metric == BQK_IP ? -kern->dotf(work, m->centroid, dim) : 0.0f;
	if (m->signs)
		kern->rotate(m->signs, dim, work);
	kern->sums(work, dim, &s);
	if (!(s.n2 < MAX_NORM2) || !(fabsf(add) < MAX_NORM2))
		return BQK_ERANGE;
	if (m->metric != BQK_IP)
		add = m->metric == BQK_L2 ? s.n2 : 0.5f * s.n2;

	/* Below this the residual is zero for every purpose, and n2 / <k,x> would lose its digits. */
	if (s.n2 < 1e-30f)
	{
		memset(code, 0, nbytes);
		f->f_add = m->metric == BQK_IP ? add : 0.0f;
		f->f_rescale = 0.0f;
		return BQK_OK;
	}
	if (m->bits == 1)
	{
		kern->pack1(work, dim, code);
		kx = 0.5f * s.l1;
	}
	else
	{
		kx = best_step(kern, work, dim, m->bits, s.max, &inv_t);
		if (bqk_planes(m->bits))
			pack_planes(work, dim, m->bits, inv_t, code);
		else
			kern->pack(work, dim, m->bits, inv_t, code);
	}
	f->f_add = add;
	f->f_rescale = metric_weight(m->metric) * (s.n2 / kx);
	return BQK_OK;
}

int
bqk_encode(const bqk_model *model, const float *x, size_t n, uint8_t *codes, bqk_factors *factors, float *work,
		   size_t *bad)
{
	const bqk_kernels *kern = bqk_active();
	size_t nbytes;

	if (!model_ok(model))
		return BQK_EINVAL;
	nbytes = bqk_code_nbytes(model->dim, model->bits);
	for (size_t i = 0; i < n; i++)
	{
		int status = encode_one(kern, model, x + i * model->dim, codes + i * nbytes, factors + i, work);

		if (status != BQK_OK)
		{
			*bad = i;
			return status;
		}
	}
	return BQK_OK;
}

/* Bit planes take no more than int8: 64 bytes for 128 dimensions. */
size_t
bqk_query_nbytes(size_t dim, int query_bits)
{
	return query_bits == 32 ? dim * sizeof(float) : (dim + BQK_BLOCK - 1) / BQK_BLOCK * BQK_BLOCK;
}

/* Bits 0 to 3 of a level in two's complement. */
static inline void
set_planes(uint8_t *planes, size_t i, int level)
{
	const size_t plane_dims = 8 * BQK_PLANE_NBYTES;
	uint8_t *byte = planes + i / plane_dims * BQK_PLANES * BQK_PLANE_NBYTES + i % plane_dims / 8;

	for (int p = 0; p < BQK_PLANES; p++)
		byte[p * BQK_PLANE_NBYTES] |= (uint8_t) (((unsigned) level >> p & 1) << (i % 8));
}

/* x ~ delta z, with z the levels -top..top: sets delta and sum_z. */
static void
quantise_query(const float *x, size_t dim, int bits, float max, bqk_query *query, void *z)
{
	const int top = (1 << (query->bits - 1)) - 1;
	float inv;
	int32_t sum = 0;

	query->delta = max / (float) top;
	inv = query->delta > 0.0f ? 1.0f / query->delta : 0.0f;
	if (!(inv < INFINITY)) /* max below FLT_MIN * top: the query sits on the centroid */
		inv = query->delta = 0.0f;
	memset(z, 0, bqk_query_nbytes(dim, query->bits));
	for (size_t i = 0; i < dim; i++)
	{
		float v = x[i] * inv;
		int level = (int) (v + (v < 0.0f ? -0.5f : 0.5f));

		level = level > top ? top : (level < -top ? -top : level);
		sum += level;
		if (bqk_has_planes(bits, query->bits))
			set_planes(z, i, level);
		else
			((int8_t *) z)[bqk_query_position(bits, i)] = (int8_t) level;
	}
	query->sum_z = sum;
}

int
bqk_query_prepare(const bqk_model *m, const float *q, int query_bits, bqk_query *query, void *z, float *work)
{
	const bqk_kernels *kern = bqk_active();
	size_t dim = m->dim;
	bqk_sums s;

	if (!model_ok(m) || bqk_planes(m->bits) || (query_bits != 4 && query_bits != 8 && query_bits != 32))
		return BQK_EINVAL;
	query->g_weight = 1.0f;
	if (m->metric == BQK_IP)
		take_projection(kern, m, q, query, work);
	else
		(void) take_residual(kern, m, q, 1, work);
	if (m->signs)
		kern->rotate(m->signs, dim, work);
	kern->sums(work, dim, &s);
	if (!(s.n2 < MAX_NORM2))
		return BQK_ERANGE;
	if (m->metric != BQK_IP)
		query->g_add = m->metric == BQK_L2 ? s.n2 : 0.5f * s.n2;
	else if (!(fabsf(query->g_add) < MAX_NORM2))
		return BQK_ERANGE;
	query->g_error = sqrtf(s.n2);
	query->bits = query_bits;
	if (query_bits < 32)
	{
		quantise_query(work, dim, m->bits, s.max, query, z);
		return BQK_OK;
	}
	query->delta = 0.0f;
	query->sum_z = 0;
	memcpy(z, work, dim * sizeof(float));
	return BQK_OK;
}
