/* Serialised models: what is written is read back, and what later versions may add is skipped. Buffers end at a
 * guard page. */
#include "model_file.h"

static void
checksum_is_crc32c(void)
{
	const uint8_t *digits = (const uint8_t *) "123456789", zeros[32] = {0};

	CHECK_INT(bqk_crc32c(digits, 9, 0), 0xe3069283);
	CHECK_INT(bqk_crc32c(zeros, 32, 0), 0x8a9136aa); /* RFC 3720, B.4 */
	CHECK_INT(bqk_crc32c(digits + 4, 5, bqk_crc32c(digits, 4, 0)), 0xe3069283);
	CHECK_INT(bqk_crc32c(digits, 0, 0), 0);
}

static void
model_survives_the_round_trip(void)
{
	const uint32_t dims[] = {1, 2, 3, 13, 100, 384, 1023, BQK_MAX_DIM};

	for (size_t d = 0; d < COUNT(dims); d++)
		for (int field = 0; field < 12; field++)
		{
			bqk_model m = sample(dims[d]), read;
			size_t nbytes = bqk_model_nbytes(&m);
			uint8_t *buf = guard_place(&room, nbytes, field % 2 ? AT_START : AT_END);

			m.bits = field % 2 ? 1 : 4;
			m.metric = (uint8_t) (field / 2 % 3);
			m.rotation = (uint8_t) (field / 6);
			with("dim=%u bits=%d metric=%d rotation=%d", m.dim, m.bits, m.metric, m.rotation);
			memset(&read, 0xee, sizeof(read));
			memset(buf, 0xee, nbytes);
			CHECK_INT(nbytes, 72 + (4 * (size_t) m.dim + 7) / 8 * 8);
			CHECK_INT(bqk_model_write(&m, buf, nbytes), BQK_OK);
			CHECK_INT(bqk_model_announced(buf, nbytes), nbytes);
			CHECK_INT(bqk_model_announced(buf, BQK_MODEL_HEADER_NBYTES), nbytes);
			CHECK_INT(bqk_model_read(buf, nbytes, &read), BQK_OK);
			CHECK_INT(read.dim, m.dim);
			CHECK_INT(read.bits, m.bits);
			CHECK_INT(read.metric, m.metric);
			CHECK_INT(read.rotation, m.rotation);
			CHECK(read.seed == m.seed);
			CHECK(read.n_trained == m.n_trained);
			CHECK(read.signs == NULL);
			CHECK((const uint8_t *) read.centroid == buf + PAYLOAD);
			CHECK_SAME(read.centroid, centroid, m.dim * sizeof(float));
		}
}

static void
layout_is_the_documented_one(void)
{
	const uint8_t *buf = written();
	const uint8_t header[] = {'B', 'Q', 'M', 'D', 1, 0, 64, 0, NBYTES, 0, 0, 0};
	const uint8_t fields[] = {DIM,  0,    0,    0,    1,    4,    2,    1,    0xef, 0xcd, 0xab, 0x89, 0x67, 0x45,
							  0x23, 0x01, 0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe, 1,    0,    0,    0};
	const uint8_t reserved[20] = {0}, section[] = {1, 0, 0, 0, 4 * DIM, 0, 0, 0};

	CHECK_SAME(buf, header, sizeof(header));
	CHECK_SAME(buf + DIM_AT, fields, sizeof(fields));
	CHECK_SAME(buf + 44, reserved, sizeof(reserved));
	CHECK_SAME(buf + SECTION, section, sizeof(section));
	CHECK_SAME(buf + PAYLOAD, centroid, DIM * sizeof(float));
	CHECK_SAME(buf + PAYLOAD + 4 * DIM, reserved, NBYTES - PAYLOAD - 4 * DIM);
}

static void
writer_refuses_a_wrong_size(void)
{
	static uint8_t buf[NBYTES + 8];
	bqk_model m = sample(DIM);

	CHECK_INT(bqk_model_write(&m, buf, NBYTES), BQK_OK);
	CHECK_INT(bqk_model_write(&m, buf, NBYTES - 1), BQK_EINVAL);
	CHECK_INT(bqk_model_write(&m, buf, NBYTES + 8), BQK_EINVAL);
	m.dim = 0;
	CHECK_INT(bqk_model_write(&m, buf, bqk_model_nbytes(&m)), BQK_EINVAL);
	m.dim = BQK_MAX_DIM + 1;
	CHECK_INT(bqk_model_write(&m, buf, bqk_model_nbytes(&m)), BQK_EINVAL);
}

/* Adds a section before the centroid, or after it. */
static size_t
with_section(uint8_t *buf, uint32_t type, uint32_t nbytes, int before)
{
	size_t padded = (nbytes + 7) / 8 * 8, at = before ? SECTION : NBYTES;

	memcpy(buf, written(), NBYTES);
	memmove(buf + at + 8 + padded, buf + at, NBYTES - at);
	memset(buf + at, 0x5a, 8 + padded);
	put(buf, at, type, 4);
	put(buf, at + 4, nbytes, 4);
	put(buf, N_SECTIONS, 2, 4);
	seal(buf, NBYTES + 8 + padded);
	return NBYTES + 8 + padded;
}

static void
unknown_sections_are_skipped_if_optional_and_refused_if_not(void)
{
	static uint8_t buf[ROOM];

	for (uint32_t nbytes = 0; nbytes <= 24; nbytes++)
		for (int before = 0; before < 2; before++)
		{
			bqk_model m;
			size_t total = with_section(buf, 0x8000 + nbytes, nbytes, before);
			const uint8_t *p = guard_copy(&room, buf, total, AT_END);

			with("%u bytes, before=%d", nbytes, before);
			CHECK_INT(bqk_model_read(p, total, &m), BQK_OK);
			CHECK_INT(m.dim, DIM);
			CHECK_SAME(m.centroid, centroid, sizeof(float) * DIM);
			CHECK_INT((const uint8_t *) m.centroid - p, before ? (int64_t) (total - NBYTES + PAYLOAD) : PAYLOAD);
			total = with_section(buf, 0x7fff, nbytes, before);
			CHECK_INT(status_of(buf, total), BQK_EVERSION);
		}
	with("largest type");
	CHECK_INT(status_of(buf, with_section(buf, 0xffffffff, 5, 1)), BQK_OK);
}

static void
longer_headers_are_read_if_they_keep_the_alignment(void)
{
	for (size_t more = 1; more <= 32; more++)
	{
		uint8_t buf[NBYTES + 32] = {0};
		size_t nbytes = NBYTES + more;
		bqk_model m;

		with("%zu more bytes", more);
		memcpy(buf, written(), SECTION);
		memcpy(buf + SECTION + more, written() + SECTION, NBYTES - SECTION);
		put(buf, HEADER_NBYTES, SECTION + more, 2);
		seal(buf, nbytes);
		CHECK_INT(status_of(buf, nbytes), more % 8 ? BQK_EFORMAT : BQK_OK);
		if (more % 8)
			continue;
		CHECK_INT(bqk_model_read(guard_copy(&room, buf, nbytes, AT_END), nbytes, &m), BQK_OK);
		CHECK_SAME(m.centroid, centroid, sizeof(float) * DIM);
	}
}

int
main(void)
{
	room = guard_new(sizeof(centroid) + ROOM);
	RUN(checksum_is_crc32c);
	RUN(model_survives_the_round_trip);
	RUN(layout_is_the_documented_one);
	RUN(writer_refuses_a_wrong_size);
	RUN(unknown_sections_are_skipped_if_optional_and_refused_if_not);
	RUN(longer_headers_are_read_if_they_keep_the_alignment);
	return finish();
}
