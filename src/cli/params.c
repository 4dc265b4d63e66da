/* anykvm params: what can be set, and what it is set to in this environment. */
#include <stdio.h>
#include "base/params.h"
#include "cli/cli.h"

int command_params(int argc, char **argv)
{
	if (argc > 1)
		return complain(EXIT_USAGE, "params: takes no arguments, but got \"%s\"", argv[1]);
	params_init();
	printf("%-32s %-10s %-10s %s\n", "NAME", "CURRENT", "DEFAULT", "MEANING");
	for (unsigned i = 0; i < param_count; i++) {
		char current[64];

		param_format(&param_table[i], current, sizeof(current));
		printf("%-32s %-10s %-10s %s\n", param_table[i].name, current, param_table[i].dflt, param_table[i].text);
	}
	return 0;
}
