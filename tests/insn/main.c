/*
 * Instruction tests: see insn.h. A worker process runs the tests; if the engine
 * takes it down, the parent reports that test and starts another after it.
 */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "insn.h"

static struct options {
	uint64_t seed, first, only;
	const char *filter;
	unsigned count, sequences, smc, shard, shards, max_reports;
	bool self, verbose;
} opt = { .seed = 1, .only = ~0ull, .count = 3, .sequences = 0, .shards = 1, .max_reports = 20 };

/* Shared with the parent. */
static struct progress {
	uint64_t next;
	bool engine;                             /* in the engine, else in the oracle */
	unsigned passed, failed, skipped, reports;
	uint8_t executed[1 << 14];
} *progress;

static struct outcome native, guest;
static uint64_t slots_used, smc_slots_used;

/* Gives the test its slot. The last one of a page holds code that goes on in the next page, mostly. */
static bool take_slot(struct test *t, bool smc, bool single)
{
	uint64_t slots = (smc ? SMC_BYTES : CODE_BYTES - SMC_BYTES) / SLOT_BYTES, *used = smc ? &smc_slots_used : &slots_used;
	if (*used + 2 > slots)
		return false;
	t->slot = (smc ? SMC_BASE : CODE_BASE) + SLOT_BYTES * (*used)++;
	t->start = CODE_OFFSET;
	if ((t->slot + SLOT_BYTES) % PAGE == 0 && (machine_bits > 16 || (t->slot + SLOT_BYTES) % 0x10000)) {
		t->start = SLOT_BYTES - 1 - below(&t->rng, single ? 20 : 100);
		(*used)++;
	}
	return true;
}

static void place(const struct test *t)
{
	uint8_t *at = code_alias + (t->slot - CODE_BASE);
	memset(at, 0xcc, t->start > CODE_OFFSET ? 2 * SLOT_BYTES : SLOT_BYTES);
	memcpy(at + t->start, t->code, t->code_len);
}

static void count_result(bool ok)
{
	if (ok)
		progress->passed++;
	else
		progress->failed++;
}

/* Keeps what a test has made of its code, and puts the original back. */
static void keep_code(const struct test *t, struct outcome *o)
{
	uint8_t *at = code_alias + (test_rip(t) - CODE_BASE);
	memcpy(o->code, at, t->code_len);
	memcpy(at, t->code, t->code_len);
}

static void run_test(const struct test *t)
{
	const char *why = NULL;
	progress->engine = false;
	native_run(t, &native);
	if (t->smc)
		keep_code(t, &native);
	progress->engine = true;
	if (opt.self)
		native_run(t, &guest);
	else
		why = guest_run(t, &guest);
	if (t->smc)
		keep_code(t, &guest);
	if (t->form && native.vector != 6)
		progress->executed[t->form - forms] = 1;
	forgive(t, &native, &guest);
	bool ok = !why && outcomes_equal(t, &native, &guest);
	count_result(ok);
	if ((!ok && progress->reports++ < opt.max_reports) || opt.verbose)
		report(t, &native, &guest, why);
}

static void cannot_make(uint64_t n, const struct form *f)
{
	printf("# cannot make test %llu: %s", (long long)n, f ? ZydisMnemonicGetString(f->mnemonic) : "sequence");
	for (unsigned i = 0; f && i < f->len; i++)
		printf(" %02x", f->bytes[i]);
	printf("\n");
}

/* Test n: a form's, or after those a sequence, each a few times with other inputs. */
static bool run_index(uint64_t n)
{
	static struct test t;
	uint64_t singles = (uint64_t)form_count * opt.count;
	t.index = n;
	t.rng = (struct rng){ opt.seed * 0x9e3779b97f4a7c15ull ^ n * 0xd6e8feb86659fd93ull };
	rnd(&t.rng);
	bool smc = n >= singles + opt.sequences;
	if (!take_slot(&t, smc, n < singles))
		return false;
	t.smc = false;
	bool made = n < singles ? test_single(&t, &forms[n % form_count]) : smc ? test_smc(&t) : test_sequence(&t);
	if (!made) {
		if (opt.verbose)
			cannot_make(n, n < singles ? &forms[n % form_count] : NULL);
		progress->skipped++;
		return true;
	}
	place(&t);
	run_test(&t);
	for (unsigned again = 0; n >= singles && !smc && again < 2; again++) {
		image_reset();
		sequence_reseed(&t);
		run_test(&t);
	}
	return true;
}

static void timed_out(int signo)
{
	static const char text[] = "timed out\n";
	if (write(2, text, sizeof text - 1) < 0)
		_exit(4);
	_exit(4);
}

static int worker(void)
{
	int fd = code_memory();
	native_init(fd);
	signal_init(guest_signal);
	signal(SIGALRM, timed_out);
	image_init(opt.seed);
	const char *why = opt.self ? NULL : guest_init(fd);
	if (why) {
		fprintf(stderr, "the guest cannot be made: %s\n", why);
		return 2;
	}
	uint64_t end = (uint64_t)form_count * opt.count + opt.sequences + opt.smc;
	while (progress->next < end) {
		uint64_t n = progress->next;
		if (n % 256 == 0)
			alarm(200);
		if ((opt.only == ~0ull || n == opt.only) && n % opt.shards == opt.shard && !run_index(n))
			return 3;                /* no code memory left: go on in a new process */
		progress->next++;
	}
	return 0;
}

/* Runs workers until one comes to the end. */
static int run_workers(void)
{
	for (;;) {
		int status;
		fflush(NULL);
		pid_t pid = fork();
		if (!pid) {
			status = worker();
			fflush(NULL);
			_exit(status);
		}
		if (pid < 0 || waitpid(pid, &status, 0) < 0)
			return 2;
		if (WIFEXITED(status) && WEXITSTATUS(status) == 3)
			continue;
		if (WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 2))
			return WEXITSTATUS(status);
		progress->failed++;
		if (progress->reports++ < opt.max_reports)
			printf("not ok %llu - the process ended in the %s with status %#x; --only %llu\n", (long long)progress->next,
			       progress->engine ? "engine" : "oracle", status, (long long)progress->next);
		progress->next++;
	}
}

static void parse(int argc, char **argv)
{
	static const struct option names[] = {
		{ "seed", 1, 0, 's' }, { "filter", 1, 0, 'f' }, { "count", 1, 0, 'c' }, { "sequences", 1, 0, 'q' }, { "shard", 1, 0, 'd' },
		{ "only", 1, 0, 'o' }, { "self", 0, 0, 'S' }, { "verbose", 0, 0, 'v' }, { "fault-flags", 0, 0, 'F' },
		{ "no-x87-pointers", 0, 0, 'X' }, { "reports", 1, 0, 'r' }, { "bits", 1, 0, 'b' }, { "smc", 1, 0, 'm' }, { 0 } };
	int c;
	while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (c) {
		case 's': opt.seed = strtoull(optarg, NULL, 0); break;
		case 'f': opt.filter = optarg; break;
		case 'c': opt.count = atoi(optarg); break;
		case 'q': opt.sequences = atoi(optarg); break;
		case 'd': sscanf(optarg, "%u/%u", &opt.shard, &opt.shards); break;
		case 'o': opt.only = strtoull(optarg, NULL, 0); break;
		case 'r': opt.max_reports = atoi(optarg); break;
		case 'm': opt.smc = atoi(optarg); break;
		case 'b': machine_bits = atoi(optarg); break;
		case 'S': opt.self = true; break;
		case 'v': opt.verbose = true; break;
		case 'F': compare_fault_flags = true; break;
		case 'X': compare_x87_pointers = false; break;
		default: exit(2);
		}
	}
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	parse(argc, argv);
	if (machine_bits == 16)
		opt.sequences = opt.smc = 0;     /* single instructions only */
	forms_enumerate(opt.filter);
	progress = mmap(NULL, sizeof *progress, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (progress == MAP_FAILED || form_count > sizeof progress->executed)
		return 2;
	progress->next = opt.only == ~0ull ? 0 : opt.only;
	int status = run_workers();
	unsigned executed = 0;
	for (unsigned i = 0; i < form_count; i++)
		executed += progress->executed[i];
	printf("%u forms, %u of them executed here, %u tests could not be made\n", form_count, executed, progress->skipped);
	printf("%u passed, %u failed\n", progress->passed, progress->failed);
	return status ? status : !!progress->failed;
}
