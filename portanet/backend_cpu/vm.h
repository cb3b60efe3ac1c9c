// The bytecode that lower.py makes of an expression and elementwise.c interprets.
//
// A slot is a pointer that instructions name by number. Most move from block to block
// with the operands; registers are scratch memory for one block; uniforms hold one
// element that is worked out once for a launch.
#ifndef PN_VM_H
#define PN_VM_H
#include "pn.h"

typedef struct {
    uint64_t strided;        // bit k: operand k has mode "v"
    int32_t rank;            // of the strided operands
    int32_t operands;        // buffers of the launch, at most 64
    int32_t constants;       // of 8 bytes each
    int32_t slots;
    int32_t moving;          // how many of the slots, the first ones, are operands
    int32_t prologue;        // instructions run once, for one element
    int32_t fills;           // instructions run once, for a whole block
    int32_t body;            // instructions run for each block
    int32_t block;           // elements of a block, a multiple of 64
    int32_t register_bytes;  // scratch for one element of every register
    int32_t uniforms;
    int32_t grain;           // elements worth a thread
    int32_t has_rows;        // the last word is the number of elements of a row
    int32_t result;          // of an epilogue: the slot of the kernel's result; of a
                             // producer: of its own; else -1
    int32_t outputs;         // how many of the operands, the first ones, are written
    int32_t holder;          // of an epilogue: the output that may hold the result, or -1
    int32_t dtype;           // of an epilogue or a producer: the storage type of the result
    int32_t others;          // operands of the launch that the expression has not
} pn_header;

enum { PN_SLOT_OPERAND,   // value: operand; its element at the block's position
       PN_SLOT_REGISTER,  // value: bytes for one element of the registers before it
       PN_SLOT_CONSTANT,  // value: number of the constant
       PN_SLOT_UNIFORM,   // value: number of the uniform
       PN_SLOT_SCALAR,    // value: operand; its only element, or its only row
       PN_SLOT_VIEW,      // value: operand; its pn_view
       PN_SLOT_ROW };     // value: operand; its element for the block's first row
typedef struct {
    int32_t kind, value;
} pn_slot;

// The number of the operation, with PN_PER_ROW if it goes over one element for each row
// of the block, and slots. by_rows: 0, or it goes over the rows of a block one by one; then
// of out, a, b and c, from the lowest byte on, the bytes of an element, with PN_ONE_FOR_A_ROW
// or PN_FIXED where it does not go over the elements of a row.
typedef struct {
    int32_t op, out, a, b, c;
    uint32_t by_rows;
} pn_instruction;
enum { PN_PER_ROW = 1 << 24, PN_ONE_FOR_A_ROW = 1 << 4, PN_FIXED = 2 << 4 };

// The bytes that lower.py packs are, in order: pn_header, constants, slots,
// instructions (prologue, fills, body).
typedef struct {
    pn_header header;
    const int64_t *constants;
    const pn_slot *slots;
    const pn_instruction *instructions;
} pn_code;

typedef struct {
    char *base;  // of element 0
    const int64_t *shape, *strides;
    int rank;
} pn_view;

// A piece of the launch: elements first .. first + n. Whole rows, where there are rows.
typedef struct {
    int64_t n, first, row;
    const pn_args *args;
} pn_block;

typedef void (*pn_op)(const pn_block *block, void *out, const void *a, const void *b,
                      const void *c);

// The work of a launch.
enum { PN_MAX_OPERANDS = 64 };
typedef struct {
    const pn_args *args;
    const pn_code *code;
    int64_t row;                   // elements of a row, 1 without rows
    char *bases[PN_MAX_OPERANDS];  // of element 0 of each operand
    pn_view views[PN_MAX_OPERANDS];
} pn_job;

// The name of an operation, NULL past the last. The numbers are the same at each level.
const char *pn_op_name_base(int number);
#endif
