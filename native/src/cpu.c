/* Instruction-set detection: the CPU's flags and the OS's consent. */
#include "bqk.h"

#if defined(__x86_64__)
#include <cpuid.h>

/* XCR0 tells which register files the OS saves: bit 1 xmm, 2 ymm, 5-7 zmm and mask registers. */
static uint64_t
xcr0(void)
{
	uint32_t lo, hi, a, b, c, d;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return 0;
	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return ((uint64_t) hi << 32) | lo;
}

static void
leaf7(uint32_t *b, uint32_t *c)
{
	uint32_t a, d;

	if (!__get_cpuid_count(7, 0, &a, b, c, &d))
		*b = *c = 0;
}

int
bqk_cpu_avx2(void)
{
	uint32_t b, c;

	leaf7(&b, &c);
	return (xcr0() & 0x6) == 0x6 && (b & (1u << 5));
}

/* F, BW, DQ, VL of leaf 7 ebx; VNNI and VPOPCNTDQ of ecx (Ice Lake, Zen 4 and later). */
int
bqk_cpu_avx512(void)
{
	const uint32_t ebx = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);
	const uint32_t ecx = (1u << 11) | (1u << 14);
	uint32_t b, c;

	leaf7(&b, &c);
	return (xcr0() & 0xe6) == 0xe6 && (b & ebx) == ebx && (c & ecx) == ecx;
}
#elif defined(__aarch64__)
/* The procedure call standard of AArch64 passes floats in NEON's registers: there is none without. */
int
bqk_cpu_neon(void)
{
	return 1;
}
#endif
