/* SAQ encoding: nearest list, residual, coordinates, levels along the trellis, factors; BQK_LANES rows at a time. */
#include "products.h"
#include "trellis.h"

#include <math.h>
#include <string.h>

/* What rows of a batch need, in the caller's work space. */
typedef struct batch
{
	bqk_rounded rounded;
	bqk_trellis_lanes lanes;
	float *residuals;      /* BQK_LANES rows */
	float *share, *length; /* per axis, of coordinates in deviations */
	float *scale;          /* of products, in deviations */
} batch;

static size_t
most_columns(const bqk_saq *saq)
{
	return saq->n_lists > saq->axes->m ? saq->n_lists : saq->axes->m;
}

size_t
bqk_saq_work(const bqk_saq *saq)
{
	return bqk_rounded_work(saq->dim, most_columns(saq)) + bqk_trellis_work(saq->trellis->dim) +
		   BQK_LANES * (size_t) saq->dim + 3 * (size_t) saq->trellis->dim;
}

static void
batch_init(batch *b, const bqk_saq *saq, float *work)
{
	const size_t m = saq->trellis->dim;

	bqk_rounded_init(&b->rounded, saq->dim, work);
	work += bqk_rounded_work(saq->dim, most_columns(saq));
	bqk_trellis_lanes_init(&b->lanes, saq->trellis, work);
	b->residuals = work + bqk_trellis_work(m);
	b->share = b->residuals + BQK_LANES * (size_t) saq->dim;
	b->length = b->share + m;
	b->scale = b->length + m;
	for (size_t i = 0; i < m; i++)
	{
		b->share[i] = saq->share[i] * b->lanes.weight[i];
		b->length[i] = saq->length[i] * b->lanes.weight[i];
		b->scale[i] = saq->axes->scale[i] * b->lanes.inverse[i];
	}
}

/* What an estimate has beyond the distance to the decoded row: the expected error of <q - c, decoded o>, q near the
 * row, and what the metric adds. With x and y coordinates and levels in deviations and f = f_rescale error = sum share
 * x (f y - x) - dropped (|o|^2 - sum length x^2). */
static void
add_terms(const bqk_saq *saq, const batch *b, const uint16_t *lists, size_t n, const float *rescale, float *f_add)
{
	const size_t m = saq->trellis->dim;
	bqk_saq_sums s;

	bqk_active()->saq_sums(b->lanes.x, b->lanes.y, b->share, b->length, m, &s);
	for (size_t l = 0; l < n; l++)
	{
		float square = b->rounded.norm2[l], f = rescale[l], rest = square - s.kept[l];
		float error = f * s.xy[l] - s.xx[l] - saq->dropped * (rest > 0.0f ? rest : 0.0f);

		if (saq->metric == BQK_L2)
			f_add[l] = square - f * f * s.decoded[l] + 2.0f * error;
		else
		{
			const float *back = saq->centroid_back + lists[l] * m,
						*centroid = saq->centroids + lists[l] * (size_t) saq->dim;
			float along = 0.0f;

			for (size_t i = 0; i < m; i++)
				along += b->lanes.y[i * BQK_LANES + l] * saq->trellis->deviation[i] * back[i];
			f_add[l] = f * along - bqk_active()->dotf(b->residuals + l * saq->dim, centroid, saq->dim) + error;
		}
	}
}

static void
encode_batch(const bqk_saq *saq, batch *b, const float *x, size_t n, int rounds, uint8_t *codes, uint16_t *lists,
			 float *f_add, float *f_rescale)
{
	const bqk_kernels *kern = bqk_active();
	const size_t dim = saq->dim, m = saq->trellis->dim;
	bqk_rounded *r = &b->rounded;
	float rescale[BQK_LANES], norm2[BQK_LANES];
	int32_t found[BQK_LANES] = {0};

	if (saq->n_lists > 1)
	{
		bqk_round_rows(r, x, n, dim);
		bqk_multiply(r, saq->lists);
		kern->nearest_lists(r, saq->lists->scale, saq->half_norms, saq->n_lists, found);
	}
	for (size_t l = 0; l < n; l++)
	{
		lists[l] = (uint16_t) found[l];
		kern->residual(x + l * dim, 1.0f, saq->centroids + lists[l] * dim, dim, b->residuals + l * dim);
	}
	bqk_round_rows(r, b->residuals, n, dim);
	bqk_multiply(r, saq->axes);
	kern->coordinates(r, b->scale, b->lanes.weight, m, b->lanes.x, norm2);
	bqk_trellis_search(&b->lanes, saq->trellis, norm2, rounds, rescale);
	memcpy(f_rescale, rescale, n * sizeof(*f_rescale));
	kern->pack_trellis(saq->trellis, b->lanes.u, n, codes);
	add_terms(saq, b, lists, n, rescale, f_add);
}

static int
saq_ok(const bqk_saq *saq)
{
	return saq->dim > 0 && saq->dim <= BQK_MAX_DIM && saq->n_lists > 0 && saq->n_lists <= UINT16_MAX &&
		   bqk_trellis_ok(saq->trellis) && saq->axes->dim == saq->dim && saq->axes->m == saq->trellis->dim &&
		   (saq->n_lists == 1 || (saq->lists && saq->lists->dim == saq->dim && saq->lists->m == saq->n_lists));
}

int
bqk_saq_encode(const bqk_saq *saq, const float *x, size_t n, int rounds, uint8_t *codes, uint16_t *lists, float *f_add,
			   float *f_rescale, float *work)
{
	batch b;

	if (!saq_ok(saq) || rounds < 1)
		return BQK_EINVAL;
	batch_init(&b, saq, work);
	for (size_t i = 0; i < n; i += BQK_LANES)
		encode_batch(saq, &b, x + i * saq->dim, n - i < BQK_LANES ? n - i : BQK_LANES, rounds,
					 codes + i * saq->trellis->code_nbytes, lists + i, f_add + i, f_rescale + i);
	return BQK_OK;
}
