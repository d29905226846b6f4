/* A search from the query's coordinates to the ids of its nearest rows: queries prepared, codes scanned, candidates
 * rescored, without a step in between that would cost as much as a scan of few codes. */
#include "bqk.h"

#include <math.h>
#include <string.h>

/* Queries that are turned by a matrix together: a row of it is read once for all. */
#define TOGETHER 16

static size_t
larger(size_t a, size_t b)
{
	return a > b ? a : b;
}

size_t
bqk_scan_queries_work(const bqk_scan_index *index)
{
	const bqk_scan_model *m = index->model;

	return TOGETHER * (m->dim + m->n_axes) + larger(m->dim, m->n_axes) +
		   (index->stage ? bqk_scan_prepare_work(index->stage) : 0);
}

/* Squares beyond these leave float32's range, or lose digits: they are first scaled by a power of two. */
static int
scale_to_unit(const bqk_kernels *kern, const float *q, size_t dim, float *out)
{
	double n2 = kern->norm2(q, dim);
	float power = 1.0f, scale;

	if (n2 > 0.0 && (n2 < 1e-60 || n2 > 1e60))
	{
		power = n2 < 1.0 ? 0x1p100f : 0x1p-100f;
		for (size_t i = 0; i < dim; i++)
			out[i] = q[i] * power;
		n2 = kern->norm2(out, dim);
	}
	scale = n2 > 0.0 ? (float) (1.0 / sqrt(n2)) : 1.0f;
	for (size_t i = 0; i < dim; i++)
		out[i] = q[i] * power * scale;
	return isfinite(n2) ? BQK_OK : BQK_ERANGE;
}

static void
list_terms(const bqk_kernels *kern, const bqk_scan_model *m, const float *q, float *g_add, float *g_weight, float *work)
{
	for (size_t l = 0; l < m->n_lists; l++)
	{
		const float *centroid = m->centroids + l * m->dim;

		g_weight[l] = 1.0f;
		if (m->square == 0.0f)
		{
			float product = kern->dotf(q, centroid, m->dim);

			g_add[l] = m->constant - product;
			if (m->linear)
				g_weight[l] = bqk_share(kern, product, centroid, m->dim);
			continue;
		}
		kern->residual(q, 1.0f, centroid, m->dim, work);
		g_add[l] = (float) (m->square * kern->norm2(work, m->dim));
	}
}

/* What precedes the matrix. x[dim]; work: dim floats. */
static int
shift_one(const bqk_scan_model *m, const float *q, bqk_scan_query *out, float *x, float *work)
{
	const bqk_kernels *kern = bqk_active();
	int status = BQK_OK;

	if (m->unit)
		status = scale_to_unit(kern, q, m->dim, x);
	else if (!isfinite(kern->norm2(q, m->dim)))
		status = BQK_ERANGE;
	else
		memcpy(x, q, m->dim * sizeof(*x));
	if (status != BQK_OK)
		return status;
	if (m->centroids)
		list_terms(kern, m, x, (float *) (uintptr_t) out->g_add, (float *) (uintptr_t) out->g_weight, work);
	if (m->origin && m->linear)
		for (size_t i = 0; i < m->dim; i++)
			x[i] -= out->g_weight[0] * m->origin[i];
	else if (m->origin)
		kern->residual(x, 1.0f, m->origin, m->dim, x);
	return BQK_OK;
}

/* What follows it. work: n_axes floats, rest: what the stage takes. */
static int
prepare_one(const bqk_scan_index *index, const float *q, float eps0, bqk_scan_query *out, float *work, float *rest)
{
	const bqk_scan_model *m = index->model;
	int status = BQK_OK;

	if (m->rabitq)
	{
		bqk_query query;

		status = bqk_query_prepare(m->rabitq, q, 8, &query, (void *) (uintptr_t) out->z, work);
		if (!m->centroids)
		{
			*(float *) (uintptr_t) out->g_add = query.g_add;
			*(float *) (uintptr_t) out->g_weight = query.g_weight;
		}
		out->unit = query.delta;
		out->shift = m->half * (float) query.sum_z;
		q = work; /* rotated */
	}
	else
		bqk_scan_trellis_query(m->trellis, q, (void *) (uintptr_t) out->z);
	out->offset = 0.0f;
	if (status == BQK_OK && index->stage)
		status =
			bqk_scan_prepare(index->stage, q, eps0, (uint8_t *) (uintptr_t) out->luts, &out->delta, &out->top, rest);
	return status;
}

int
bqk_scan_queries(const bqk_scan_index *index, const float *q, size_t n_queries, float eps0, bqk_scan_query *queries,
				 float *work)
{
	const bqk_scan_model *m = index->model;
	float *x = work, *axes = x + TOGETHER * m->dim, *one = axes + TOGETHER * m->n_axes;
	float *rest = one + larger(m->dim, m->n_axes), *turned = m->matrix ? axes : x;
	size_t width = m->matrix ? m->n_axes : m->dim;
	int status = BQK_OK;

	for (size_t n; n_queries > 0 && status == BQK_OK; n_queries -= n, q += n * m->dim, queries += n)
	{
		n = n_queries < TOGETHER ? n_queries : TOGETHER;
		for (size_t i = 0; i < n && status == BQK_OK; i++)
			status = shift_one(m, q + i * m->dim, queries + i, x + i * m->dim, one);
		if (m->matrix && status == BQK_OK)
			status = bqk_matmul(x, n, m->matrix, m->n_axes, m->dim, axes);
		for (size_t i = 0; i < n && status == BQK_OK; i++)
			status = prepare_one(index, turned + i * width, eps0, queries + i, one, rest);
	}
	return status;
}

/* Distances and ids of one query, the first n of which are there. */
static void
write_found(const float *from, const uint32_t *from_ids, size_t k, double *distances, int64_t *ids)
{
	for (size_t i = 0; i < k; i++)
	{
		distances[i] = from[i];
		ids[i] = from_ids[i] == BQK_SCAN_NONE ? -1 : (int64_t) from_ids[i];
	}
}

int
bqk_scan_find(const bqk_scan_index *index, const bqk_scan_room *room, const bqk_scan_index *tier,
			  const bqk_scan_room *tier_room, const float *q, size_t n_queries, float eps0, int prepared,
			  size_t n_candidates, size_t k, const uint8_t *filter, const uint32_t *listed, size_t n_listed,
			  double *distances, int64_t *ids, int64_t *n_full)
{
	int status = prepared ? BQK_OK : bqk_scan_queries(index, q, n_queries, eps0, room->queries, room->work);

	if (status != BQK_OK)
		return status;
	if (listed)
		status = bqk_scan_listed(index->scan, listed, n_listed, room->queries, n_queries, n_candidates, room->search,
								 room->distances, room->ids);
	else
		status = bqk_scan_search(index->scan, 0, index->scan->n_segments, room->queries, n_queries, n_candidates,
								 filter, room->search, room->distances, room->ids, room->n_full);
	for (size_t i = 0; i < n_queries && status == BQK_OK; i++)
	{
		const uint32_t *found = room->ids + i * n_candidates;
		size_t n = n_candidates;

		n_full[i] = (int64_t) (listed ? n_listed : room->n_full[i]);
		if (!tier)
		{
			write_found(room->distances + i * n_candidates, found, k, distances + i * k, ids + i * k);
			continue;
		}
		while (n > 0 && found[n - 1] == BQK_SCAN_NONE) /* empty places come last */
			n--;
		status = bqk_scan_queries(tier, q + i * tier->model->dim, 1, eps0, tier_room->queries, tier_room->work);
		if (status == BQK_OK)
			status = bqk_scan_listed(tier->scan, found, n, tier_room->queries, 1, k, tier_room->search,
									 tier_room->distances, tier_room->ids);
		write_found(tier_room->distances, tier_room->ids, k, distances + i * k, ids + i * k);
	}
	return status;
}
