/*
 * vmx/vmcs12 -- the table of VMCS fields and access by encoding.
 *
 * An encoding has 2 bits of width, 2 of type and, in all that exist, an index
 * below 64: together the 10-bit number of a slot, so a look-up is one load.
 */
#include "vmx/vmcs12.h"

_Static_assert(sizeof(struct vmcs12) == VMCS12_SIZE, "migration streams carry vmcs12 as one page");
#define VMCS_FIELD(enc, bits, kind, at, name, label, feat) \
	_Static_assert(offsetof(struct vmcs12, name) == (at), "saved VMCSs have " label " elsewhere"); \
	_Static_assert(((enc) >> 13 & 3) == VMCS_WIDTH_##bits && ((enc) >> 10 & 3) == VMCS_TYPE_##kind, "encoding of " label); \
	_Static_assert(!((enc) & ~0x6c7e), "index of " label " needs a larger slot table");
#include "x86/vmcs_fields.def"
#undef VMCS_FIELD

const struct vmcs_field vmcs_fields[] = {
#define VMCS_FIELD(enc, bits, kind, at, name, label, feat) \
	{ .encoding = (enc), .offset = (at), .width = VMCS_WIDTH_##bits, .type = VMCS_TYPE_##kind, \
	  .feature = VMCS_FEATURE_##feat, .text = (label) },
#include "x86/vmcs_fields.def"
#undef VMCS_FIELD
};
const unsigned vmcs_field_count = ARRAY_SIZE(vmcs_fields);

/* Position of each field in vmcs_fields. */
enum {
#define VMCS_FIELD(enc, bits, kind, at, name, label, feat) POSITION_##name,
#include "x86/vmcs_fields.def"
#undef VMCS_FIELD
};

#define SLOT(enc) (((enc) >> 13 & 3) << 8 | ((enc) >> 10 & 3) << 6 | ((enc) >> 1 & 63))

/* Slot -> 1 + position; 0: no such field. */
static const uint8_t slots[1024] = {
#define VMCS_FIELD(enc, bits, kind, at, name, label, feat) [SLOT(enc)] = POSITION_##name + 1,
#include "x86/vmcs_fields.def"
#undef VMCS_FIELD
};
_Static_assert(ARRAY_SIZE(vmcs_fields) < 255, "slots are bytes");

const struct vmcs_field *vmcs_field_find(uint64_t encoding, bool *high)
{
	if (encoding & ~0x6c7full)
		return NULL;
	unsigned position = slots[SLOT(encoding)];
	*high = encoding & 1;
	if (!position || (*high && vmcs_fields[position - 1].width != VMCS_WIDTH_64))
		return NULL;
	return &vmcs_fields[position - 1];
}

uint64_t vmcs12_get(const struct vmcs12 *v, const struct vmcs_field *f, bool high)
{
	const uint8_t *at = &v->bytes[f->offset];
	uint64_t value = 0;

	if (high)
		memcpy(&value, at + 4, 4);
	else if (f->width == VMCS_WIDTH_16)
		memcpy(&value, at, 2);
	else if (f->width == VMCS_WIDTH_32)
		memcpy(&value, at, 4);
	else
		memcpy(&value, at, 8);
	return value;
}

void vmcs12_put(struct vmcs12 *v, const struct vmcs_field *f, bool high, uint64_t value)
{
	uint8_t *at = &v->bytes[f->offset];

	if (high)
		memcpy(at + 4, &value, 4);
	else if (f->width == VMCS_WIDTH_16)
		memcpy(at, &value, 2);
	else if (f->width == VMCS_WIDTH_32)
		memcpy(at, &value, 4);
	else
		memcpy(at, &value, 8);
}
