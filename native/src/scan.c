/* Exhaustive search over blocks of codes: integer sums against an integer threshold, bounds of what passes against the
 * k-th best distance, estimates of what is left. */
#include "fastscan.h"
#include "scan_limits.h"
#include "scan_whole.h"
#include "topk.h"

#include <math.h>

/* Blocks between two looks at the threshold. The first runs are short, as the threshold falls fastest there. Single
 * queries of a million codes take .9 of the time that runs of 64 took, and 256 are no better: what a run costs beside
 * its codes is spread. */
#define RUN_BLOCKS 128
#define RUN_CODES (RUN_BLOCKS * BQK_SCAN_BLOCK)
/* Codes that are fetched ahead of their estimates. */
#define AHEAD 16

/* Codes of a query that wait to be read whole. */
#define WAITING 512

/* A query's place in the search. Of the codes whose bound does not exceed the limit only those are read at once that
 * have one of the smallest bounds so far: they are the ones to lower it. The others wait, and most of them need not be
 * read in the end.
 *
 * The limit is the k-th best distance, or a forecast of it: the k-th best falls slowly, as many codes pass it while the
 * search goes from a quarter of the codes to a half as from there to the end. But codes lie in no order, so what is
 * done is a sample, and an entry so far in front of the k-th that hardly so many of the k best can lie in the sample is
 * no better than the k-th of all. Codes whose bound exceeds a forecast are passed over. Where the k-th best proves
 * worse than it, the query is searched again. */
typedef struct progress
{
	bqk_topk best;
	bqk_topk near;
	float nearest;     /* what is among the smallest bounds */
	float forecast;    /* infinite where there is none */
	int done;          /* takes no part any more */
	uint64_t *waiting; /* entries of bounds */
	size_t n_waiting;
	uint64_t n_full;
} progress;

typedef struct scratch
{
	progress *queries;
	uint32_t *positions[BQK_SCAN_GROUP];
	uint16_t *sums[BQK_SCAN_GROUP];
} scratch;

static inline size_t
group_of(size_t n_queries)
{
	return n_queries < BQK_SCAN_GROUP ? n_queries : BQK_SCAN_GROUP;
}

size_t
bqk_scan_work(size_t n_queries, size_t k)
{
	return n_queries * (sizeof(progress) + (2 * bqk_topk_capacity(k) + WAITING) * sizeof(uint64_t)) +
		   group_of(n_queries) * RUN_CODES * (sizeof(uint32_t) + sizeof(uint16_t));
}

static scratch
divide(void *work, size_t n_queries, size_t k)
{
	scratch s = {.queries = work};
	uint64_t *entries = (uint64_t *) (void *) (s.queries + n_queries);
	uint32_t *positions = (uint32_t *) (void *) (entries + n_queries * (2 * bqk_topk_capacity(k) + WAITING));
	uint16_t *sums = (uint16_t *) (void *) (positions + group_of(n_queries) * RUN_CODES);

	for (size_t q = 0; q < n_queries; q++, entries += 2 * bqk_topk_capacity(k) + WAITING)
	{
		uint64_t *near = entries + bqk_topk_capacity(k);

		s.queries[q] = (progress) {{entries, 0, k, INFINITY},
								   {near, 0, k, INFINITY},
								   INFINITY,
								   INFINITY,
								   0,
								   near + bqk_topk_capacity(k),
								   0,
								   0};
	}
	for (size_t q = 0; q < group_of(n_queries); q++)
	{
		s.positions[q] = positions + q * RUN_CODES;
		s.sums[q] = sums + q * RUN_CODES;
	}
	return s;
}

/* Whether the code may be found. */
static inline int
wanted(const bqk_scan *scan, uint32_t id, const uint8_t *filter)
{
	return id < scan->n && (!filter || filter[id / 8] >> id % 8 & 1);
}

/* What bounds must not exceed. */
static inline float
limit_of(const progress *p)
{
	return p->forecast < p->best.threshold ? p->forecast : p->best.threshold;
}

/* Reads codes whole, given as entries of their bounds. */
static void
read_whole(const bqk_scan *scan, const bqk_scan_query *query, const uint64_t *entries, size_t n, progress *p)
{
	for (size_t i = 0; i < n && i < AHEAD; i++)
		fetch(scan, (uint32_t) entries[i]);
	for (size_t i = 0; i < n; i++)
	{
		uint32_t id = (uint32_t) entries[i];
		float bound = bqk_topk_distance(entries[i]), estimate;

		if (i + AHEAD < n)
			fetch(scan, (uint32_t) entries[i + AHEAD]);
		if (bound > limit_of(p))
			continue;
		p->n_full++;
		estimate = f_add_of(scan, query, id, scan->lists ? scan->lists[id] : 0) +
				   f_rescale_of(scan, id) * inner_product(scan, query, scan->codes + (size_t) id * scan->code_nbytes);
		bqk_topk_push(&p->best, estimate < bound ? bound : estimate, id);
		if (i % AHEAD == AHEAD - 1)
			bqk_topk_compact(&p->best);
	}
	bqk_topk_compact(&p->best);
}

/* Forgets what fell behind the threshold, and reads the rest if it is much or the last. */
static void
clear_waiting(const bqk_scan *scan, const bqk_scan_query *query, progress *p, int last)
{
	float limit = limit_of(p);
	size_t n = 0;

	for (size_t i = 0; i < p->n_waiting; i++)
		if (bqk_topk_distance(p->waiting[i]) <= limit)
			p->waiting[n++] = p->waiting[i];
	p->n_waiting = n;
	if (!last && n <= WAITING / 2)
		return;
	read_whole(scan, query, p->waiting, n, p);
	p->n_waiting = 0;
}

/* Turns positions into ids. Codes are few and far between: their factors are fetched all at once, as each would wait
 * for memory alone. */
static void
locate_found(const bqk_scan *scan, size_t first_block, const bqk_scan_found *found)
{
	size_t first = first_block * BQK_SCAN_BLOCK;
	uint32_t *ids = found->positions;

	for (size_t i = 0; i < found->n; i++)
	{
		ids[i] = scan->ids ? scan->ids[first + ids[i]] : (uint32_t) first + ids[i];
		if (scan->factors && ids[i] < scan->n)
			__builtin_prefetch(scan->factors + ids[i]);
	}
}

/* Bounds what was found and located. */
static void
bound_found(const bqk_scan *scan, const bqk_segment *segment, const bqk_scan_query *query, const uint8_t *filter,
			const bqk_scan_found *found, size_t rank, progress *p)
{
	const uint32_t *ids = found->positions;
	size_t n = 0, kept = 0;

	for (size_t i = 0; i < found->n; i++)
	{
		float bound;

		if (!wanted(scan, ids[i], filter))
			continue;
		bound = f_add_of(scan, query, ids[i], segment->list) +
				f_rescale_of(scan, ids[i]) * (query->top - query->delta * (float) found->sums[i]);
		if (bound > limit_of(p))
			continue;
		if (p->n_waiting == WAITING)
			clear_waiting(scan, query, p, 0);
		if (bound <= p->nearest)
			fetch(scan, ids[i]);
		p->waiting[p->n_waiting++] = bqk_topk_entry(bound, ids[i]);
		bqk_topk_push(&p->near, bound, ids[i]);
		n++;
	}
	if (n == 0)
		return;
	bqk_topk_compact(&p->near);
	p->nearest = rank < p->near.n ? bqk_topk_nth(&p->near, rank) : p->near.threshold;
	/* those of this run with the smallest bounds to the end; a cleared list was cut from the front */
	n = n < p->n_waiting ? n : p->n_waiting;
	kept = p->n_waiting - n;
	for (size_t i = kept; i < p->n_waiting; i++)
		if (bqk_topk_distance(p->waiting[i]) > p->nearest)
		{
			uint64_t later = p->waiting[i];

			p->waiting[i] = p->waiting[kept];
			p->waiting[kept++] = later;
		}
	read_whole(scan, query, p->waiting + kept, p->n_waiting - kept, p);
	p->n_waiting = kept;
	if (rank < p->best.k && rank <= p->best.n)
	{
		float forecast = bqk_topk_nth(&p->best, rank);

		p->forecast = forecast < p->forecast ? forecast : p->forecast;
	}
}

static void
write_results(progress *queries, size_t n_queries, size_t k, float *distances, uint32_t *ids)
{
	for (size_t q = 0; q < n_queries; q++, distances += k, ids += k)
	{
		size_t n = bqk_topk_finish(&queries[q].best);

		for (size_t i = 0; i < k; i++)
		{
			distances[i] = i < n ? bqk_topk_distance(queries[q].best.entries[i]) : INFINITY;
			ids[i] = i < n ? (uint32_t) queries[q].best.entries[i] : BQK_SCAN_NONE;
		}
	}
}

/* A search under way. */
typedef struct search
{
	const bqk_scan *scan;
	const bqk_scan_query *queries;
	size_t n_queries;
	const uint8_t *filter;
	bqk_scan_fn kernel;
	scratch s;
	bqk_scan_rows rows; /* but for the run's blocks */
	size_t n_blocks;
	size_t done;
	int forecasts; /* whether there are any */
} search;

/* Of the k best fewer are in what will be done with the next blocks than this, but for one search in some hundreds; k
 * if that cannot be said. Their number has the binomial distribution: this is one beyond 2.5 deviations above its mean.
 */
static size_t
rank_of(const search *a, size_t n_next)
{
	double k = (double) a->s.queries->best.k, share = (double) (a->done + n_next) / (double) a->n_blocks;
	double rank = ceil(k * share + 2.5 * sqrt(k * share * (1.0 - share))) + 1.0;

	return a->forecasts && rank < k ? (size_t) rank : a->s.queries->best.k;
}

/* One run of blocks for all queries, a group at a time; those that nothing in the segment can enter take no part. */
static void
search_run(search *a, const bqk_segment *segment, size_t first_block, size_t n_blocks)
{
	bqk_scan_found found[BQK_SCAN_GROUP];
	bqk_scan_limits limit[BQK_SCAN_GROUP];
	size_t who[BQK_SCAN_GROUP], n = 0, rank = rank_of(a, n_blocks);
	bqk_scan_rows rows = a->rows;

	rows.blocks += first_block * (rows.n_rows + rows.n_factors) * BQK_SCAN_BLOCK;
	rows.n_blocks = n_blocks;
	for (size_t q = 0; q < a->n_queries; q++)
	{
		progress *p = a->s.queries + q;

		if (!p->done)
		{
			bqk_scan_set_limits(a->scan, segment, a->queries + q, limit_of(p), limit + n);
			if (limit[n].sum >= 0)
			{
				found[n] = (bqk_scan_found) {
					a->queries[q].luts, (uint32_t) limit[n].sum, a->s.positions[n], a->s.sums[n], 0, limit[n].luts};
				who[n++] = q;
			}
		}
		if (n == 0 || (n < BQK_SCAN_GROUP && q + 1 < a->n_queries))
			continue;
		a->kernel(&rows, found, n);
		for (size_t i = 0; i < n; i++)
			locate_found(a->scan, first_block, found + i);
		for (size_t i = 0; i < n; i++)
			bound_found(a->scan, segment, a->queries + who[i], a->filter, found + i, rank, a->s.queries + who[i]);
		n = 0;
	}
	a->done += n_blocks;
}

/* Ends a pass over the codes; returns whether there must be another, for queries whose forecast was too low. */
static int
start_over(search *a)
{
	int any = 0;

	for (size_t q = 0; q < a->n_queries; q++)
	{
		progress *p = a->s.queries + q;

		clear_waiting(a->scan, a->queries + q, p, 1);
		p->done = !(p->best.threshold > p->forecast);
		if (p->done)
			continue;
		/* k codes are known not to exceed the threshold, if it is finite: all of the best are found again */
		p->best.n = p->near.n = 0;
		p->nearest = p->near.threshold = p->best.threshold;
		p->forecast = INFINITY;
		any = 1;
	}
	a->done = 0;
	a->forecasts = 0;
	return any;
}

int
bqk_scan_search(const bqk_scan *scan, size_t first_segment, size_t n_segments, const bqk_scan_query *queries,
				size_t n_queries, size_t k, const uint8_t *filter, void *work, float *distances, uint32_t *ids,
				uint64_t *n_full)
{
	search a = {.scan = scan, .queries = queries, .n_queries = n_queries, .filter = filter, .kernel = bqk_fastscan()};

	if (k == 0 || first_segment > scan->n_segments || n_segments > scan->n_segments - first_segment ||
		scan->n_rows == 0 || scan->n_trellis > scan->n_rows || (scan->n_trellis > 0 && scan->n_trellis < 3))
		return BQK_EINVAL;
	a.s = divide(work, n_queries, k);
	a.forecasts = !scan->lists;
	for (size_t i = first_segment; i < first_segment + n_segments; i++)
		a.n_blocks += scan->segments[i].n_blocks;
	a.rows = (bqk_scan_rows) {scan->blocks, 0, scan->n_rows, scan->n_trellis, scan->factor_bins ? 1 : 0, 0};
	/* fetched ahead of a single query: up to there the caches have them */
	a.rows.ahead = a.n_blocks * (a.rows.n_rows + a.rows.n_factors) * BQK_SCAN_BLOCK > BQK_SCAN_CACHED_NBYTES;
	do
		for (size_t i = first_segment; i < first_segment + n_segments; i++)
		{
			const bqk_segment *segment = scan->segments + i;
			size_t last = (size_t) segment->block + segment->n_blocks, count;

			for (size_t b = segment->block; b < last; b += count)
			{
				size_t run = 1 + a.done / 3 < RUN_BLOCKS ? 1 + a.done / 3 : RUN_BLOCKS;

				count = last - b < run ? last - b : run;
				search_run(&a, segment, b, count);
			}
		}
	while (start_over(&a));
	write_results(a.s.queries, n_queries, k, distances, ids);
	for (size_t q = 0; q < n_queries; q++)
		n_full[q] = a.s.queries[q].n_full;
	return BQK_OK;
}

int
bqk_scan_listed(const bqk_scan *scan, const uint32_t *listed, size_t n_listed, const bqk_scan_query *queries,
				size_t n_queries, size_t k, void *work, float *distances, uint32_t *ids)
{
	scratch s = divide(work, n_queries, k);

	if (k == 0)
		return BQK_EINVAL;
	for (size_t i = 0; i < n_listed; i++)
		if (listed[i] >= scan->n)
			return BQK_EINVAL;
	for (size_t i = 0; i < n_listed; i++)
	{
		uint32_t id = listed[i], list = scan->lists ? scan->lists[id] : 0;
		const uint8_t *code = scan->codes + (size_t) id * scan->code_nbytes;
		float f_rescale = f_rescale_of(scan, id);

		if (i + AHEAD < n_listed)
			fetch(scan, listed[i + AHEAD]);
		for (size_t q = 0; q < n_queries; q++)
			bqk_topk_push(&s.queries[q].best,
						  f_add_of(scan, queries + q, id, list) + f_rescale * inner_product(scan, queries + q, code),
						  id);
	}
	write_results(s.queries, n_queries, k, distances, ids);
	return BQK_OK;
}
