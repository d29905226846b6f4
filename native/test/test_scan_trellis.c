/* Products of single trellis codes: every instruction set adds up as the scalar kernel does, near what decoding gives,
 * and reads nothing beyond the code. */
#include "check.h"
#include "scan_trellis.h"

#include <math.h>

#define MAX_AXES 300

static guarded gcode, gz;
static uint8_t code[MAX_AXES], bits[MAX_AXES];
static float deviation[MAX_AXES], q[MAX_AXES], decoded[MAX_AXES], levels[1024];

static void
products_match_across_isas_and_what_decoding_gives(void)
{
	uint64_t state = 5;

	for (size_t round = 0; round < 1500; round++)
	{
		size_t dim = 1 + random_bits(&state) % MAX_AXES, n_bits = 0;
		int most = 1 + (int) (random_bits(&state) % 8), run = 1 + (int) (random_bits(&state) % 12);
		side at = (side) (random_bits(&state) % N_SIDES);
		bqk_trellis t = {(uint32_t) dim, 0, bits, deviation};
		double expected = 0.0, size = 0.0;
		const uint8_t *placed;
		void *z;
		float oracle;

		for (size_t i = 0; i < dim; i++)
		{
			/* runs of axes of equal bits, as segments have them; of any length, so that groups are mixed */
			most -= i % (size_t) run == 0 && i > 0 && most > 1 && random_bits(&state) % 2;
			bits[i] = (uint8_t) most;
			n_bits += bits[i];
			deviation[i] = 0.1f + (float) (random_bits(&state) % 1000) / 500.0f;
			q[i] = (float) (random_bits(&state) % 2001) / 1000.0f - 1.0f;
		}
		t.code_nbytes = (uint32_t) ((n_bits + 7) / 8 + random_bits(&state) % 3);
		if (t.code_nbytes > sizeof(code))
			continue;
		for (size_t i = 0; i < t.code_nbytes; i++)
			code[i] = (uint8_t) random_bits(&state);
		with("dim=%zu bits=%d at=%s", dim, bits[0], side_names[at]);
		CHECK(bqk_scan_levels_count(&t) <= COUNT(levels));
		bqk_scan_levels(&t, levels);
		z = guard_place(&gz, bqk_scan_trellis_nbytes(&t), AT_END);
		memset(z, 0, bqk_scan_trellis_nbytes(&t));
		bqk_scan_trellis_query(&t, deviation, z); /* another query first: what it leaves must not matter */
		bqk_scan_trellis_query(&t, q, z);
		placed = guard_copy(&gcode, code, t.code_nbytes, at);
		CHECK_INT(bqk_trellis_decode(&t, placed, 1, decoded), BQK_OK);
		for (size_t i = 0; i < dim; i++)
		{
			expected += (double) decoded[i] * q[i];
			size += fabs((double) decoded[i] * q[i]);
		}
		oracle = bqk_trellis_product_scalar(&t, levels, placed, z);
		CHECK(fabs(oracle - expected) <= 1e-5 * size + 1e-6);
		for (const bqk_kernels *const *k = tables(); *k; k++)
		{
			float found = (*k)->trellis_product(&t, levels, placed, z);

			with("%s dim=%zu bits=%d at=%s", (*k)->name, dim, bits[0], side_names[at]);
			CHECK_SAME(&found, &oracle, sizeof(found));
		}
	}
}

int
main(void)
{
	gcode = guard_new(sizeof(code));
	gz = guard_new(1 << 14);
	RUN(products_match_across_isas_and_what_decoding_gives);
	return finish();
}
