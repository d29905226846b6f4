/* Damaged, foreign and newer models: nothing is read from them, and no byte beyond them. */
#include "model_file.h"

#include <math.h>

static void
every_truncation_and_any_surplus_is_refused(void)
{
	uint8_t buf[NBYTES + 64] = {0};

	for (size_t n = 0; n < NBYTES; n++)
	{
		with("%zu of %d bytes", n, NBYTES);
		memcpy(buf, written(), NBYTES);
		CHECK_INT(status_of(buf, n), BQK_EFORMAT);
		for (uint64_t n_sections = 0; n_sections < 4 && n >= BQK_MODEL_HEADER_NBYTES; n_sections++)
		{
			with("%zu of %d bytes under a right checksum, %" PRIu64 " sections", n, NBYTES, n_sections);
			put(buf, N_SECTIONS, n_sections, 4);
			seal(buf, n);
			CHECK_INT(status_of(buf, n), BQK_EFORMAT);
		}
	}
	for (size_t n = NBYTES + 1; n < sizeof(buf); n++)
	{
		with("%zu bytes instead of %d", n, NBYTES);
		memset(buf, 0, sizeof(buf));
		memcpy(buf, written(), NBYTES);
		CHECK_INT(status_of(buf, n), BQK_EFORMAT);
		seal(buf, n);
		CHECK_INT(status_of(buf, n), BQK_EFORMAT);
	}
}

static void
every_change_of_a_byte_is_refused(void)
{
	uint8_t buf[NBYTES];

	memcpy(buf, written(), NBYTES);
	for (size_t at = 0; at < NBYTES; at++)
		for (int change = 1; change < 256; change++)
		{
			int status;

			with("byte %zu ^ 0x%02x", at, change);
			buf[at] ^= (uint8_t) change;
			status = status_of(buf, NBYTES);
			if (at >= CRC)
				CHECK_INT(status, BQK_ECHECKSUM);
			else
				CHECK(status == BQK_EFORMAT || status == BQK_EVERSION || status == BQK_ECHECKSUM);
			buf[at] ^= (uint8_t) change;
		}
	CHECK_INT(status_of(buf, NBYTES), BQK_OK);
}

static void
foreign_bytes_are_not_a_model(void)
{
	uint8_t buf[256];
	uint64_t state = 4;
	bqk_model m;

	for (size_t n = 0; n < sizeof(buf); n += 4)
	{
		with("%zu random bytes", n);
		for (size_t i = 0; i < sizeof(buf); i++)
			buf[i] = (uint8_t) random_bits(&state);
		CHECK_INT(bqk_model_announced(guard_copy(&room, buf, n, AT_END), n), 0);
		CHECK_INT(status_of(buf, n), BQK_EFORMAT);
	}
	with("text, zeros, another magic");
	memset(buf, ' ', sizeof(buf));
	memcpy(buf, "PAR1", 4);
	CHECK_INT(status_of(buf, sizeof(buf)), BQK_EFORMAT);
	memset(buf, 0, sizeof(buf));
	CHECK_INT(status_of(buf, sizeof(buf)), BQK_EFORMAT);
	memcpy(buf, written(), NBYTES);
	buf[3] = 'X';
	seal(buf, NBYTES);
	CHECK_INT(bqk_model_announced(buf, NBYTES), 0);
	CHECK_INT(bqk_model_read(buf, NBYTES, &m), BQK_EFORMAT);
}

static void
newer_versions_are_told_from_damage(void)
{
	const unsigned versions[] = {BQK_MODEL_VERSION + 1, 255, 256, 65535};
	uint8_t buf[NBYTES];

	for (size_t v = 0; v < COUNT(versions); v++)
	{
		with("version %u", versions[v]);
		memcpy(buf, written(), NBYTES);
		put(buf, VERSION, versions[v], 2);
		seal(buf, NBYTES);
		CHECK_INT(status_of(buf, NBYTES), BQK_EVERSION);
		/* its checksum may be computed differently: the version counts first */
		buf[CRC] ^= 1;
		CHECK_INT(status_of(buf, NBYTES), BQK_EVERSION);
	}
	with("another codec");
	memcpy(buf, written(), NBYTES);
	buf[CODEC] = 2;
	seal(buf, NBYTES);
	CHECK_INT(status_of(buf, NBYTES), BQK_EVERSION);
}

static void
absurd_fields_are_refused(void)
{
	static const struct
	{
		size_t at, nbytes;
		uint64_t value;
		int status;
	} cases[] = {
		{HEADER_NBYTES, 2, 0, BQK_EFORMAT},
		{HEADER_NBYTES, 2, 56, BQK_EFORMAT},
		{HEADER_NBYTES, 2, 65, BQK_EFORMAT},
		{HEADER_NBYTES, 2, 72, BQK_EFORMAT},
		{HEADER_NBYTES, 2, NBYTES, BQK_EFORMAT},
		{HEADER_NBYTES, 2, NBYTES + 8, BQK_EFORMAT},
		{HEADER_NBYTES, 2, 0xfff8, BQK_EFORMAT},
		{DIM_AT, 4, 0, BQK_EFORMAT},
		{DIM_AT, 4, DIM - 1, BQK_EFORMAT},
		{DIM_AT, 4, DIM + 1, BQK_EFORMAT},
		{DIM_AT, 4, BQK_MAX_DIM + 1, BQK_EFORMAT},
		{DIM_AT, 4, 0x4000000d, BQK_EFORMAT}, /* times 4 wraps to 13 * 4 in 32 bits */
		{DIM_AT, 4, 0xffffffff, BQK_EFORMAT},
		{BITS, 1, 0, BQK_EFORMAT},
		{BITS, 1, 3, BQK_EFORMAT},
		{BITS, 1, 255, BQK_EFORMAT},
		{METRIC, 1, 3, BQK_EFORMAT},
		{ROTATION, 1, 2, BQK_EFORMAT},
		{N_SECTIONS, 4, 0, BQK_EFORMAT},
		{N_SECTIONS, 4, 2, BQK_EFORMAT},
		{N_SECTIONS, 4, 0xffffffff, BQK_EFORMAT},
		{SECTION, 4, 0, BQK_EVERSION},
		{SECTION, 4, 2, BQK_EVERSION}, /* critical and unknown */
		{SECTION, 4, 0x7fff, BQK_EVERSION},
		{SECTION, 4, 0x8000, BQK_EFORMAT}, /* skipped, and then the centroid is missing */
		{SECTION_NBYTES, 4, 0, BQK_EFORMAT},
		{SECTION_NBYTES, 4, 4 * DIM - 1, BQK_EFORMAT},
		{SECTION_NBYTES, 4, 4 * DIM + 1, BQK_EFORMAT},
		{SECTION_NBYTES, 4, 0x7fffffff, BQK_EFORMAT},
		{SECTION_NBYTES, 4, 0xfffffff9, BQK_EFORMAT},
		{SECTION_NBYTES, 4, 0xffffffff, BQK_EFORMAT},
		{PAYLOAD, 4, 0x7f800000, BQK_EFORMAT},               /* +inf */
		{PAYLOAD + 4 * DIM - 4, 4, 0xff800000, BQK_EFORMAT}, /* -inf */
		{PAYLOAD + 4 * 5, 4, 0x7fc00000, BQK_EFORMAT},       /* NaN */
		{PAYLOAD + 4 * 5, 4, 0x7f7fffff, BQK_OK},            /* FLT_MAX */
	};

	for (size_t c = 0; c < COUNT(cases); c++)
	{
		uint8_t buf[NBYTES];

		memcpy(buf, written(), NBYTES);
		with("%zu bytes at %zu = 0x%" PRIx64, cases[c].nbytes, cases[c].at, cases[c].value);
		put(buf, cases[c].at, cases[c].value, cases[c].nbytes);
		seal(buf, NBYTES);
		CHECK_INT(status_of(buf, NBYTES), cases[c].status);
	}
	with("announced length");
	for (uint64_t total = 0; total < BQK_MODEL_HEADER_NBYTES; total++)
	{
		uint8_t *buf = written();

		put(buf, TOTAL_NBYTES, total, 4);
		CHECK_INT(bqk_model_announced(buf, NBYTES), 0);
		put(buf, TOTAL_NBYTES, 0xffffffff, 4);
		CHECK_INT(bqk_model_announced(buf, NBYTES), 0xffffffff);
		CHECK_INT(status_of(buf, NBYTES), BQK_EFORMAT);
	}
}

static void
more_dimensions_than_the_limit_are_refused(void)
{
	static uint8_t buf[NBYTES + BQK_MAX_DIM * sizeof(float)];

	for (uint32_t dim = BQK_MAX_DIM - 1; dim <= BQK_MAX_DIM + 2; dim++)
	{
		size_t nbytes = PAYLOAD + (dim * sizeof(float) + 7) / 8 * 8;

		with("dim=%u", dim);
		memset(buf, 0, sizeof(buf));
		memcpy(buf, written(), PAYLOAD);
		put(buf, DIM_AT, dim, 4);
		put(buf, SECTION_NBYTES, dim * sizeof(float), 4);
		seal(buf, nbytes);
		CHECK_INT(status_of(buf, nbytes), dim <= BQK_MAX_DIM ? BQK_OK : BQK_EFORMAT);
	}
}

/* Damage under a right checksum: whatever is accepted is a model that can encode. */
static void
random_damage_is_refused_or_harmless(void)
{
	uint64_t state = 9;
	size_t accepted = 0;

	for (int trial = 0; trial < 100000; trial++)
	{
		uint8_t buf[NBYTES];
		bqk_model m;

		with("trial %d", trial);
		memcpy(buf, written(), NBYTES);
		for (uint64_t n = random_bits(&state) % 3 + 1; n > 0; n--)
			buf[random_bits(&state) % NBYTES] = (uint8_t) random_bits(&state);
		memcpy(buf, "BQMD\1", 6);
		seal(buf, NBYTES);
		if (bqk_model_read(guard_copy(&room, buf, NBYTES, AT_END), NBYTES, &m) != BQK_OK)
			continue;
		accepted++;
		CHECK(m.dim == DIM && bqk_bits_supported(m.bits) && m.metric <= BQK_COSINE);
		CHECK(m.rotation <= BQK_ROTATION_HADAMARD && m.signs == NULL);
		for (size_t i = 0; i < DIM; i++)
			CHECK(isfinite(m.centroid[i]));
	}
	with("accepted %zu", accepted);
	CHECK(accepted > 1000 && accepted < 99000);
}

int
main(void)
{
	room = guard_new(sizeof(centroid) + ROOM);
	RUN(every_truncation_and_any_surplus_is_refused);
	RUN(every_change_of_a_byte_is_refused);
	RUN(foreign_bytes_are_not_a_model);
	RUN(newer_versions_are_told_from_damage);
	RUN(absurd_fields_are_refused);
	RUN(more_dimensions_than_the_limit_are_refused);
	RUN(random_damage_is_refused_or_harmless);
	return finish();
}
