/* Chooses the kernel table once; a new ISA is a new row. */
#include "bqk.h"

#include <string.h>

/* Rising order: the last supported row wins. */
static const bqk_kernels *const rows[] = {
	&bqk_kernels_scalar,
#if defined(__x86_64__)
	&bqk_kernels_avx2,
	&bqk_kernels_avx512,
#elif defined(__aarch64__)
	&bqk_kernels_neon,
#endif
};

#define N_ROWS (sizeof(rows) / sizeof(rows[0]))

const bqk_kernels *_Atomic bqk_kernels_active = NULL;

static const bqk_kernels *
best(void)
{
	for (size_t i = N_ROWS; i-- > 0;)
		if (rows[i]->supported())
			return rows[i];
	return rows[0];
}

/* Two threads may both get here; they store the same pointer. */
const bqk_kernels *
bqk_activate(void)
{
	const bqk_kernels *k = best();

	atomic_store_explicit(&bqk_kernels_active, k, memory_order_relaxed);
	return k;
}

static const bqk_kernels *
find(const char *name)
{
	for (size_t i = 0; i < N_ROWS; i++)
		if (strcmp(rows[i]->name, name) == 0)
			return rows[i];
	return NULL;
}

const char *
bqk_isa_name(size_t i)
{
	return i < N_ROWS ? rows[i]->name : NULL;
}

int
bqk_isa_supported(const char *name)
{
	const bqk_kernels *k = find(name);

	return k != NULL && k->supported();
}

int
bqk_isa_select(const char *name)
{
	const bqk_kernels *k = name ? find(name) : best();

	if (k == NULL)
		return BQK_EINVAL;
	if (!k->supported())
		return BQK_EUNSUPPORTED;
	atomic_store_explicit(&bqk_kernels_active, k, memory_order_relaxed);
	return BQK_OK;
}

const char *
bqk_isa_active(void)
{
	return bqk_active()->name;
}

const char *
bqk_strerror(int status)
{
	switch (status)
	{
	case BQK_OK:
		return "success";
	case BQK_EINVAL:
		return "invalid argument";
	case BQK_EUNSUPPORTED:
		return "instruction set not supported by this machine";
	case BQK_EZERO:
		return "zero vector under the cosine metric";
	case BQK_ERANGE:
		return "vector too large: its squared distance to the centroid overflows float32";
	case BQK_EFORMAT:
		return "not a bqcore model, or truncated";
	case BQK_EVERSION:
		return "model was written by a newer version";
	case BQK_ECHECKSUM:
		return "model checksum does not match its contents";
	}
	return "unknown status";
}
