/* What descriptors mean: the table of objects (objects.c), for api.c. */
#ifndef ANYKVM_OBJECTS_H
#define ANYKVM_OBJECTS_H

#include "kvm/vm.h"

struct object {
	struct object *next;
	dev_t dev;
	ino_t ino;
	int64_t stamp;                   /* file position of its memfd, or 0 */
	enum object_kind kind;
	void *object;
	struct vm *vm;                   /* NULL for the system */
	bool foreign;                    /* made by the process that forked us */
};

/* The object of fd, with a reference on its VM. false: not ours, or not open. */
bool object_get(int fd, struct object *out);
/* The same, in less time where fd is ours and in more where it is not. */
bool object_get_often(int fd, struct object *out);
void object_put(const struct object *o);

#endif
