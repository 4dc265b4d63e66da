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

bool vmcs12_read(const struct vmcs12 *v, uint64_t encoding, uint64_t *value)
{
	bool high;
	const struct vmcs_field *f = vmcs_field_find(encoding, &high);
	if (!f)
		return false;
	*value = 0;
	if (high)
		memcpy(value, &v->bytes[f->offset + 4], 4);
	else
		memcpy(value, &v->bytes[f->offset], vmcs_field_size(f));
	return true;
}

bool vmcs12_write(struct vmcs12 *v, uint64_t encoding, uint64_t value)
{
	bool high;
	const struct vmcs_field *f = vmcs_field_find(encoding, &high);
	if (!f)
		return false;
	if (high)
		memcpy(&v->bytes[f->offset + 4], &value, 4);
	else
		memcpy(&v->bytes[f->offset], &value, vmcs_field_size(f));
	return true;
}
