/* Floating point: SSE2, AVX2 with FMA, and scalar doubles with square roots and divisions. */
#include "bench.h"

enum { SIZE = 48, BODIES = 5 };
typedef float v4 __attribute__((vector_size(16)));
typedef float v8 __attribute__((vector_size(32)));
static float (*left)[SIZE], (*right)[SIZE], (*product)[SIZE];

void setup_vector(void)
{
	float *m = arena(3 * SIZE * SIZE * sizeof(float));

	for (int i = 0; i < 2 * SIZE * SIZE; i++)
		m[i] = 0.001f * (i % 997);
	left = (void *)m;
	right = left + SIZE;
	product = right + SIZE;
}

#define MULTIPLY(vector) \
	for (int i = 0; i < SIZE; i++) { \
		vector *out = (vector *)product[i]; \
		for (int j = 0; j < SIZE / (int)(sizeof(vector) / sizeof(float)); j++) { \
			vector sum = { 0 }; \
			for (int k = 0; k < SIZE; k++) \
				sum += left[i][k] * ((vector *)right[k])[j]; \
			out[j] = sum; \
		} \
	}

static OPAQUE void multiply_sse2(void)
{
	MULTIPLY(v4)
}

__attribute__((target("avx2,fma"))) static OPAQUE void multiply_avx(void)
{
	MULTIPLY(v8)
}

void run_sse2(uint64_t work)
{
	for (uint64_t i = 0; i < work; i++)
		multiply_sse2();
	sink += (uint64_t)product[1][1];
}

void run_avx(uint64_t work)
{
	for (uint64_t i = 0; i < work; i++)
		multiply_avx();
	sink += (uint64_t)product[1][1];
}

const char *without_avx(void)
{
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? NULL : "no AVX2 and FMA here";
}

static struct { double at[3], speed[3], mass; } body[BODIES];

void setup_nbody(void)
{
	for (int i = 0; i < BODIES; i++) {
		for (int k = 0; k < 3; k++) {
			body[i].at[k] = 1 + 3 * i + k;
			body[i].speed[k] = 0.1 * (k - i);
		}
		body[i].mass = 1.0 / (i + 1);
	}
}

static OPAQUE void nbody_step(double dt)
{
	for (int i = 0; i < BODIES; i++) {
		for (int j = i + 1; j < BODIES; j++) {
			double d[3], square = 0, pull;

			for (int k = 0; k < 3; k++) {
				d[k] = body[i].at[k] - body[j].at[k];
				square += d[k] * d[k];
			}
			pull = dt / (square * __builtin_sqrt(square));
			for (int k = 0; k < 3; k++) {
				body[i].speed[k] -= d[k] * body[j].mass * pull;
				body[j].speed[k] += d[k] * body[i].mass * pull;
			}
		}
	}
	for (int i = 0; i < BODIES; i++)
		for (int k = 0; k < 3; k++)
			body[i].at[k] += dt * body[i].speed[k];
}

void run_nbody(uint64_t work)
{
	for (uint64_t i = 0; i < work; i++)
		nbody_step(1e-6);
	sink += (uint64_t)body[0].at[0];
}
