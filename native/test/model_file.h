/* A small serialised model and the tools to damage it: what the tests of bqk_model_read share. */
#ifndef MODEL_FILE_H
#define MODEL_FILE_H

#include "check.h"

#define DIM 13
#define NBYTES (BQK_MODEL_HEADER_NBYTES + 8 + 56) /* 13 floats, padded to 8 */
#define ROOM 4096

/* Offsets of the header's fields, as docs/code-format.md states them. */
enum
{
	VERSION = 4,
	HEADER_NBYTES = 6,
	TOTAL_NBYTES = 8,
	CRC = 12,
	DIM_AT = 16,
	CODEC = 20,
	BITS = 21,
	METRIC = 22,
	ROTATION = 23,
	SEED = 24,
	N_TRAINED = 32,
	N_SECTIONS = 40,
	SECTION = 64,
	SECTION_NBYTES = 68,
	PAYLOAD = 72
};

static guarded room;
static float centroid[BQK_MAX_DIM];

static inline bqk_model
sample(uint32_t dim)
{
	uint64_t state = dim;

	for (size_t i = 0; i < dim; i++)
		centroid[i] = random_normal(&state);
	return (bqk_model) {.dim = dim,
						.bits = 4,
						.metric = BQK_COSINE,
						.rotation = BQK_ROTATION_HADAMARD,
						.seed = UINT64_C(0x0123456789abcdef),
						.n_trained = UINT64_C(0xfedcba9876543210),
						.centroid = centroid};
}

static inline uint8_t *
written(void)
{
	static uint8_t buf[NBYTES];
	bqk_model m = sample(DIM);

	memset(buf, 0xee, NBYTES); /* what is not a field is written as zero */
	CHECK_INT(bqk_model_nbytes(&m), NBYTES);
	CHECK_INT(bqk_model_write(&m, buf, NBYTES), BQK_OK);
	return buf;
}

static inline void
put(uint8_t *buf, size_t at, uint64_t value, size_t nbytes)
{
	memcpy(buf + at, &value, nbytes);
}

/* Makes the length and the checksum right, so that only the field under test is wrong. */
static inline void
seal(uint8_t *buf, size_t nbytes)
{
	put(buf, TOTAL_NBYTES, nbytes, 4);
	put(buf, CRC, 0, 4);
	put(buf, CRC, bqk_crc32c(buf, nbytes, 0), 4);
}

static inline int
status_of(const uint8_t *buf, size_t nbytes)
{
	bqk_model m;

	return bqk_model_read(guard_copy(&room, buf, nbytes, AT_END), nbytes, &m);
}

#endif
