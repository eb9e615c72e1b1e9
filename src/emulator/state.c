// The emulator's processor: registers from the client, and those that changed back to it.
#include <string.h>

#include "emulator/emulator.h"
#include "x86/fpu.h"
#include "x86/system.h"

// What an instruction that reaches memory or ports may depend on. General registers come first, in encoding order.
static const WHV_REGISTER_NAME names[] = {
    WHvX64RegisterRax, WHvX64RegisterRcx, WHvX64RegisterRdx, WHvX64RegisterRbx, WHvX64RegisterRsp, WHvX64RegisterRbp,
    WHvX64RegisterRsi, WHvX64RegisterRdi, WHvX64RegisterR8, WHvX64RegisterR9, WHvX64RegisterR10, WHvX64RegisterR11,
    WHvX64RegisterR12, WHvX64RegisterR13, WHvX64RegisterR14, WHvX64RegisterR15, WHvX64RegisterRip,
    WHvX64RegisterRflags, WHvX64RegisterEs, WHvX64RegisterCs, WHvX64RegisterSs, WHvX64RegisterDs, WHvX64RegisterFs,
    WHvX64RegisterGs, WHvX64RegisterCr0, WHvX64RegisterCr4, WHvX64RegisterEfer, WHvX64RegisterXmm0,
    WHvX64RegisterXmm1, WHvX64RegisterXmm2, WHvX64RegisterXmm3, WHvX64RegisterXmm4, WHvX64RegisterXmm5,
    WHvX64RegisterXmm6, WHvX64RegisterXmm7, WHvX64RegisterXmm8, WHvX64RegisterXmm9, WHvX64RegisterXmm10,
    WHvX64RegisterXmm11, WHvX64RegisterXmm12, WHvX64RegisterXmm13, WHvX64RegisterXmm14, WHvX64RegisterXmm15,
    WHvX64RegisterFpControlStatus,
    WHvX64RegisterXmmControlStatus, WHvX64RegisterFpMmx0, WHvX64RegisterFpMmx1, WHvX64RegisterFpMmx2,
    WHvX64RegisterFpMmx3, WHvX64RegisterFpMmx4, WHvX64RegisterFpMmx5, WHvX64RegisterFpMmx6, WHvX64RegisterFpMmx7,
};
enum { COUNT = sizeof names / sizeof names[0], RIP = 16, RFLAGS = 17, SEGMENTS = 18, CR0 = 24, CR4 = 25, EFER = 26,
       XMM = 27, FP = 43, FP_COUNT = 10 };

// The registers from FP on are the first 16-byte units of an FXSAVE area, in its order.
_Static_assert(offsetof(struct x86_fx_image, xmm) == FP_COUNT * sizeof(WHV_UINT128), "two of control, eight of data");

bool emulator_load(struct emulator *e, const WHV_VP_EXIT_CONTEXT *exit)
{
    WHV_REGISTER_VALUE values[COUNT];
    struct x86_cpu *cpu = &e->cpu;
    memset(values, 0, sizeof values);
    if (FAILED(e->callbacks.WHvEmulatorGetVirtualProcessorRegisters(e->context, names, COUNT, values))) {
        e->status.GetVirtualProcessorRegistersCallbackFailed = 1;
        return false;
    }
    for (unsigned n = 0; n < 16; n++)
        cpu->slot[n] = values[n].Reg64;
    cpu->rip = values[RIP].Reg64;
    x86_set_rflags(cpu, values[RFLAGS].Reg64);
    for (unsigned s = 0; s < 6; s++) {
        const WHV_X64_SEGMENT_REGISTER *from = &values[SEGMENTS + s].Segment;
        cpu->slot[X86_SLOT_SEGMENT + s] = from->Base;
        cpu->segment[s] = (struct x86_segment){ .limit = from->Limit, .selector = from->Selector,
                                                .attributes = from->Attributes };
    }
    cpu->cr0 = values[CR0].Reg64;
    cpu->cr4 = values[CR4].Reg64;
    cpu->efer = values[EFER].Reg64;
    if (exit->ExecutionState.EferLma)
        cpu->efer |= X86_EFER_LMA;
    for (unsigned n = 0; n < 16; n++)
        memcpy(&cpu->vec[n], &values[XMM + n], 16);
    struct x86_fx_image image = { 0 };
    memcpy(&image, &values[FP], offsetof(struct x86_fx_image, xmm));
    image.mxcsr &= X86_MXCSR_VALID;
    (void)x86_fpu_from_image(cpu, &image, cpu->efer & X86_EFER_LMA, 0);     // MXCSR has no reserved bits
    x86_fpu_to_image(cpu, &e->loaded, cpu->efer & X86_EFER_LMA);
    // A port access that exited was permitted already; its permission map is not at hand here.
    cpu->cpl = e->exit ? (uint8_t)(exit->ExecutionState.Cpl & 3) : 0;
    cpu->interrupt_shadow = 0;
    cpu->dr7 = 0x400;
    cpu->scratch_state.pending = X86_PENDING_NONE;
    x86_update_mode(cpu);
    cpu->mode &= ~(uint32_t)X86_MODE_SINGLE;
    return true;
}

// The registers that an instruction may have changed: general, RIP, RFLAGS; vectors, x87 and MXCSR only when it did, since
// an engine may have to go far for them.
bool emulator_store(struct emulator *e)
{
    WHV_REGISTER_NAME changed[RFLAGS + 1 + 16 + FP_COUNT];
    WHV_REGISTER_VALUE values[RFLAGS + 1 + 16 + FP_COUNT];
    struct x86_fx_image image;
    struct x86_cpu *cpu = &e->cpu;
    unsigned count = 0;
    memset(values, 0, sizeof values);
    for (unsigned n = 0; n < 16; n++, count++) {
        changed[count] = names[n];
        values[count].Reg64 = cpu->slot[n];
    }
    changed[count] = WHvX64RegisterRip;
    values[count++].Reg64 = cpu->rip;
    changed[count] = WHvX64RegisterRflags;
    values[count++].Reg64 = x86_get_rflags(cpu);
    x86_fpu_to_image(cpu, &image, cpu->efer & X86_EFER_LMA);
    for (unsigned n = 0; n < 16; n++)
        if (memcmp(&image.xmm[n], &e->loaded.xmm[n], 16) != 0) {
            changed[count] = names[XMM + n];
            memcpy(&values[count++], &image.xmm[n], 16);
        }
    if (memcmp(&image, &e->loaded, offsetof(struct x86_fx_image, xmm)) != 0) {
        memcpy(&changed[count], &names[FP], FP_COUNT * sizeof names[0]);
        memcpy(&values[count], &image, offsetof(struct x86_fx_image, xmm));
        count += FP_COUNT;
    }
    if (FAILED(e->callbacks.WHvEmulatorSetVirtualProcessorRegisters(e->context, changed, count, values))) {
        e->status.SetVirtualProcessorRegistersCallbackFailed = 1;
        return false;
    }
    return true;
}
