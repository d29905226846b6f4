/* What every test is made of: checks that print the parameters in force, memory that ends at a guard page, and
 * seeded numbers. A failed check is reported and the program goes on, up to MAX_FAILURES; a fault prints the
 * parameters before it kills the program. */
#ifndef CHECK_H
#define CHECK_H

#include "bqk.h"

#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_FAILURES 20
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static char parameters[256];
static size_t n_checks, n_failures;
static int fault_handler_set;
static struct sigaction previous_segv, previous_bus;

/* Names the parameters of the checks that follow. */
__attribute__((format(printf, 1, 2))) static inline void
with(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(parameters, sizeof(parameters), format, args);
	va_end(args);
}

static inline void
check(int passed, const char *file, int line, const char *text)
{
	n_checks++;
	if (passed)
		return;
	fprintf(stderr, "%s:%d: %s  [%s]\n", file, line, text, parameters);
	if (++n_failures == MAX_FAILURES)
	{
		fprintf(stderr, "stopping after %d failures\n", MAX_FAILURES);
		exit(1);
	}
}

static inline void
check_int(int64_t found, int64_t expected, const char *file, int line, const char *text)
{
	char both[400];

	if (found == expected)
	{
		n_checks++;
		return;
	}
	snprintf(both, sizeof(both), "%s: expected %" PRId64 ", not %" PRId64, text, expected, found);
	check(0, file, line, both);
}

#define CHECK(condition) check(!!(condition), __FILE__, __LINE__, #condition)
#define CHECK_INT(found, expected) check_int((found), (expected), __FILE__, __LINE__, #found)
#define CHECK_SAME(a, b, nbytes) check(memcmp((a), (b), (nbytes)) == 0, __FILE__, __LINE__, #a " == " #b)

static void
on_fault(int signal)
{
	const char *lead = "memory fault at: ";

	if (write(2, lead, strlen(lead)) < 0 || write(2, parameters, strlen(parameters)) < 0 || write(2, "\n", 1) < 0)
		_exit(2);
	/* The access is repeated, under the sanitizer's handler or the default one. */
	sigaction(signal, signal == SIGSEGV ? &previous_segv : &previous_bus, NULL);
}

static inline void
run(void (*test)(void), const char *name)
{
	size_t checks = n_checks, failures = n_failures;

	if (!fault_handler_set)
	{
		struct sigaction action = {.sa_handler = on_fault};

		fault_handler_set = 1;
		sigaction(SIGSEGV, &action, &previous_segv);
		sigaction(SIGBUS, &action, &previous_bus);
	}
	with("%s", name);
	test();
	with("%s made no checks", name);
	if (n_checks == checks)
		CHECK(n_checks > checks);
	printf("%-64s %8zu checks%s\n", name, n_checks - checks, n_failures > failures ? "  FAILED" : "");
}

#define RUN(test) run(test, #test)

/* Exit status of a test program. */
static inline int
finish(void)
{
	printf("%zu checks, %zu failures\n", n_checks, n_failures);
	return n_failures ? 1 : 0;
}

/* Memory between two pages that fault on any access. */
typedef struct guarded
{
	uint8_t *first;
	size_t nbytes;
} guarded;

/* Both ends of a buffer cannot touch a guard page at once: tests run with either. */
typedef enum side
{
	AT_END,
	AT_START,
	N_SIDES
} side;

static const char *const side_names[N_SIDES] = {"end", "start"};

static inline guarded
guard_new(size_t nbytes)
{
	size_t page = (size_t) sysconf(_SC_PAGESIZE);
	size_t inner = (nbytes + page - 1) / page * page;
	uint8_t *all = mmap(NULL, inner + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (all == MAP_FAILED || mprotect(all + page, inner, PROT_READ | PROT_WRITE) != 0)
	{
		perror("mmap");
		exit(2);
	}
	return (guarded) {all + page, inner};
}

/* nbytes of it that end at one guard page or start at the other. */
static inline void *
guard_place(const guarded *g, size_t nbytes, side at)
{
	if (nbytes > g->nbytes)
	{
		fprintf(stderr, "guard_place: expected at most %zu bytes, not %zu\n", g->nbytes, nbytes);
		exit(2);
	}
	return at == AT_END ? g->first + g->nbytes - nbytes : g->first;
}

static inline void *
guard_copy(const guarded *g, const void *from, size_t nbytes, side at)
{
	return memcpy(guard_place(g, nbytes, at), from, nbytes);
}

static inline uint64_t
random_bits(uint64_t *state)
{
	uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/* In [0, 1). */
static inline float
random_unit(uint64_t *state)
{
	return (float) (random_bits(state) >> 40) * 0x1p-24f;
}

/* Mean 0, variance 1, within +-6: the sum of twelve uniforms. */
static inline float
random_normal(uint64_t *state)
{
	float sum = -6.0f;

	for (int i = 0; i < 12; i++)
		sum += random_unit(state);
	return sum;
}

/* Every dim to 200 and, around the blocks of 8 to 512, the usual ones up to the largest. */
static inline size_t
test_dim(size_t i)
{
	static const size_t more[] = {255,  256,  257,  384,  511,  512,  513,   768,
								  1000, 1024, 1025, 1536, 2090, 3072, 15999, 16000};

	if (i < 200)
		return i + 1;
	return i - 200 < COUNT(more) ? more[i - 200] : 0;
}

static const bqk_kernels *const all_tables[] = {
	&bqk_kernels_scalar,
#if defined(__x86_64__)
	&bqk_kernels_avx2,
	&bqk_kernels_avx512,
#elif defined(__aarch64__)
	&bqk_kernels_neon,
#endif
};

/* The machine's tables in rising order, then NULL; those it lacks are named once. */
static inline const bqk_kernels *const *
tables(void)
{
	static const bqk_kernels *found[COUNT(all_tables) + 1];
	size_t n = 0;

	if (found[0])
		return found;
	for (size_t i = 0; i < COUNT(all_tables); i++)
	{
		if (all_tables[i]->supported())
			found[n++] = all_tables[i];
		else
			printf("SKIPPED: this machine has no %s\n", all_tables[i]->name);
	}
	return found;
}

#endif
