/* Reading and writing of serialised models: layout in docs/code-format.md. */
#include "bqk.h"

#include <math.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the formats are little-endian and copied as they are");

#define CODEC_RABITQ 1
#define SECTION_CENTROID 1
/* Readers skip unknown sections at or above this type and refuse those below it. */
#define SECTION_OPTIONAL 0x8000

static const uint8_t magic[4] = {'B', 'Q', 'M', 'D'};

typedef struct header
{
	uint8_t magic[4];
	uint16_t version;
	uint16_t header_nbytes;
	uint32_t total_nbytes;
	uint32_t crc; /* CRC-32C of everything, this field taken as zero */
	uint32_t dim;
	uint8_t codec;
	uint8_t bits;
	uint8_t metric;
	uint8_t rotation;
	uint64_t seed;
	uint64_t n_trained;
	uint32_t n_sections;
	uint8_t reserved[20];
} header;

typedef struct section
{
	uint32_t type;
	uint32_t nbytes; /* of the payload, which is padded to 8 */
} section;

_Static_assert(sizeof(header) == BQK_MODEL_HEADER_NBYTES, "header layout");

/* CRC-32C (Castagnoli), reflected polynomial. Models are small: a nibble table is enough. */
uint32_t
bqk_crc32c(const uint8_t *buf, size_t nbytes, uint32_t crc)
{
	static const uint32_t table[16] = {
		0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
		0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
	};

	crc = ~crc;
	for (size_t i = 0; i < nbytes; i++)
	{
		crc ^= buf[i];
		crc = (crc >> 4) ^ table[crc & 15];
		crc = (crc >> 4) ^ table[crc & 15];
	}
	return ~crc;
}

static size_t
pad8(size_t n)
{
	return (n + 7) & ~(size_t) 7;
}

static uint32_t
checksum(const uint8_t *buf, size_t nbytes)
{
	static const uint8_t zero[4] = {0};
	const size_t at = offsetof(header, crc);
	uint32_t crc = bqk_crc32c(buf, at, 0);

	crc = bqk_crc32c(zero, sizeof(zero), crc);
	return bqk_crc32c(buf + at + 4, nbytes - at - 4, crc);
}

size_t
bqk_model_nbytes(const bqk_model *model)
{
	return sizeof(header) + sizeof(section) + pad8(model->dim * sizeof(float));
}

int
bqk_model_write(const bqk_model *model, uint8_t *buf, size_t nbytes)
{
	header h = {.version = BQK_MODEL_VERSION, .header_nbytes = sizeof(header), .codec = CODEC_RABITQ, .n_sections = 1};
	section s = {.type = SECTION_CENTROID};

	if (nbytes != bqk_model_nbytes(model) || model->dim == 0 || model->dim > BQK_MAX_DIM || !bqk_bits_ok(model->bits))
		return BQK_EINVAL;
	memset(buf, 0, nbytes);
	memcpy(h.magic, magic, sizeof(magic));
	h.total_nbytes = (uint32_t) nbytes;
	h.dim = model->dim;
	h.bits = model->bits;
	h.metric = model->metric;
	h.rotation = model->rotation;
	h.seed = model->seed;
	h.n_trained = model->n_trained;
	memcpy(buf, &h, sizeof(h));
	s.nbytes = (uint32_t) (model->dim * sizeof(float));
	memcpy(buf + sizeof(h), &s, sizeof(s));
	memcpy(buf + sizeof(h) + sizeof(s), model->centroid, s.nbytes);
	h.crc = checksum(buf, nbytes);
	memcpy(buf, &h, sizeof(h));
	return BQK_OK;
}

size_t
bqk_model_announced(const uint8_t *buf, size_t nbytes)
{
	header h;

	if (nbytes < sizeof(h))
		return 0;
	memcpy(&h, buf, sizeof(h));
	return memcmp(h.magic, magic, sizeof(magic)) == 0 && h.total_nbytes >= sizeof(h) ? h.total_nbytes : 0;
}

int
bqk_model_read(const uint8_t *buf, size_t nbytes, bqk_model *model)
{
	header h;
	size_t at;

	if (bqk_model_announced(buf, nbytes) == 0)
		return BQK_EFORMAT;
	memcpy(&h, buf, sizeof(h));
	if (h.version > BQK_MODEL_VERSION)
		return BQK_EVERSION;
	if (h.total_nbytes != nbytes || h.header_nbytes < sizeof(h) || h.header_nbytes > nbytes || h.header_nbytes % 8)
		return BQK_EFORMAT;
	if (checksum(buf, nbytes) != h.crc)
		return BQK_ECHECKSUM;
	if (h.codec != CODEC_RABITQ)
		return BQK_EVERSION;
	if (h.dim == 0 || h.dim > BQK_MAX_DIM || !bqk_bits_supported(h.bits) || h.metric > BQK_COSINE ||
		h.rotation > BQK_ROTATION_HADAMARD)
		return BQK_EFORMAT;

	memset(model, 0, sizeof(*model));
	at = h.header_nbytes;
	for (uint32_t i = 0; i < h.n_sections; i++)
	{
		section s;

		if (nbytes - at < sizeof(s))
			return BQK_EFORMAT;
		memcpy(&s, buf + at, sizeof(s));
		at += sizeof(s);
		if (pad8(s.nbytes) > nbytes - at)
			return BQK_EFORMAT;
		if (s.type == SECTION_CENTROID)
		{
			if (s.nbytes != h.dim * sizeof(float))
				return BQK_EFORMAT;
			model->centroid = (const float *) (const void *) (buf + at);
		}
		else if (s.type < SECTION_OPTIONAL)
			return BQK_EVERSION;
		at += pad8(s.nbytes);
	}
	if (at != nbytes || model->centroid == NULL)
		return BQK_EFORMAT;
	for (uint32_t i = 0; i < h.dim; i++)
		if (!(fabsf(model->centroid[i]) < INFINITY))
			return BQK_EFORMAT;
	model->dim = h.dim;
	model->bits = h.bits;
	model->metric = h.metric;
	model->rotation = h.rotation;
	model->seed = h.seed;
	model->n_trained = h.n_trained;
	return BQK_OK;
}
