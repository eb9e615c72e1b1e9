/* Types and values of the Windows Hypervisor Platform API for x64.
 *
 * Names, values and layouts are those of Microsoft's API reference (Windows Hypervisor Platform API
 * Definitions) in its current revision; what Bulkhead adds has its own header, bulkhead/bulkhead.h.
 *
 * Unless a comment says otherwise: sizes are in bytes, addresses are guest addresses in bytes, times are in
 * units of 100 ns, frequencies in Hz, and a reserved member must be zero on the way in and is zero on the way
 * out. Every structure has one layout for C and C++ and every compiler; the assertions hold it.
 *
 * Sources named in the comments: SDM = Intel 64 and IA-32 Software Developer's Manual, APM = AMD64
 * Architecture Programmer's Manual, TLFS = Hypervisor Top Level Functional Specification.
 */
#ifndef _WINHVAPIDEFS_H_
#define _WINHVAPIDEFS_H_

#include "bulkhead/wintypes.h"

/* Unnamed structures, bit-fields of other types than int and enumerators above INT_MAX are part of this API;
 * a program that compiles with -Wpedantic shall not hear of them. */
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#endif

/* ---- Handles and addresses ----------------------------------------------------------------------------- */

/* Names a partition. It is issued by WHvCreatePartition and means nothing to another process. */
typedef VOID *WHV_PARTITION_HANDLE;

/* An address in the guest's physical memory. */
typedef UINT64 WHV_GUEST_PHYSICAL_ADDRESS;

/* An address as guest software uses it, before paging. */
typedef UINT64 WHV_GUEST_VIRTUAL_ADDRESS;

/* A virtual trust level, counted from 0 (TLFS 15). */
typedef UINT8 WHV_VTL;

/* As a target level: all of them. */
#define WHV_VTL_ALL 0xF

/* The virtual trust level that a call is for. */
typedef union WHV_INPUT_VTL {
    UINT8 AsUINT8;
    struct {
        UINT8 TargetVtl : 4; /* used with UseTargetVtl only */
        UINT8 UseTargetVtl : 1; /* 0: the processor's current level */
        UINT8 Reserved : 3;
    };
} WHV_INPUT_VTL;
C_ASSERT(sizeof(WHV_INPUT_VTL) == 1);

/* ---- Names of registers -------------------------------------------------------------------------------- */

/* The registers of a virtual processor. The member of WHV_REGISTER_VALUE that carries a register is Reg64
 * unless a comment names another one. Programs count on Rax to Gdtr being 0 to 27 without a gap.
 *
 * A register that belongs to a feature which the partition does not have is refused. */
typedef enum WHV_REGISTER_NAME {
    /* General registers. */
    WHvX64RegisterRax = 0x00000000,
    WHvX64RegisterRcx = 0x00000001,
    WHvX64RegisterRdx = 0x00000002,
    WHvX64RegisterRbx = 0x00000003,
    WHvX64RegisterRsp = 0x00000004,
    WHvX64RegisterRbp = 0x00000005,
    WHvX64RegisterRsi = 0x00000006,
    WHvX64RegisterRdi = 0x00000007,
    WHvX64RegisterR8 = 0x00000008,
    WHvX64RegisterR9 = 0x00000009,
    WHvX64RegisterR10 = 0x0000000A,
    WHvX64RegisterR11 = 0x0000000B,
    WHvX64RegisterR12 = 0x0000000C,
    WHvX64RegisterR13 = 0x0000000D,
    WHvX64RegisterR14 = 0x0000000E,
    WHvX64RegisterR15 = 0x0000000F,
    WHvX64RegisterRip = 0x00000010,
    WHvX64RegisterRflags = 0x00000011,

    /* Segment registers: Segment. */
    WHvX64RegisterEs = 0x00000012,
    WHvX64RegisterCs = 0x00000013,
    WHvX64RegisterSs = 0x00000014,
    WHvX64RegisterDs = 0x00000015,
    WHvX64RegisterFs = 0x00000016,
    WHvX64RegisterGs = 0x00000017,
    WHvX64RegisterLdtr = 0x00000018,
    WHvX64RegisterTr = 0x00000019,

    /* Descriptor tables: Table. */
    WHvX64RegisterIdtr = 0x0000001A,
    WHvX64RegisterGdtr = 0x0000001B,

    /* Control registers. */
    WHvX64RegisterCr0 = 0x0000001C,
    WHvX64RegisterCr2 = 0x0000001D,
    WHvX64RegisterCr3 = 0x0000001E,
    WHvX64RegisterCr4 = 0x0000001F,
    WHvX64RegisterCr8 = 0x00000020,

    /* Debug registers. */
    WHvX64RegisterDr0 = 0x00000021,
    WHvX64RegisterDr1 = 0x00000022,
    WHvX64RegisterDr2 = 0x00000023,
    WHvX64RegisterDr3 = 0x00000024,
    WHvX64RegisterDr6 = 0x00000025,
    WHvX64RegisterDr7 = 0x00000026,

    /* The extended control register (SDM vol. 3A 2.6). */
    WHvX64RegisterXCr0 = 0x00000027,

    /* Control registers as a nested guest sees them. */
    WHvX64RegisterVirtualCr0 = 0x00000028,
    WHvX64RegisterVirtualCr3 = 0x00000029,
    WHvX64RegisterVirtualCr4 = 0x0000002A,
    WHvX64RegisterVirtualCr8 = 0x0000002B,

    /* Vector registers: Reg128, the low half of the YMM register. */
    WHvX64RegisterXmm0 = 0x00001000,
    WHvX64RegisterXmm1 = 0x00001001,
    WHvX64RegisterXmm2 = 0x00001002,
    WHvX64RegisterXmm3 = 0x00001003,
    WHvX64RegisterXmm4 = 0x00001004,
    WHvX64RegisterXmm5 = 0x00001005,
    WHvX64RegisterXmm6 = 0x00001006,
    WHvX64RegisterXmm7 = 0x00001007,
    WHvX64RegisterXmm8 = 0x00001008,
    WHvX64RegisterXmm9 = 0x00001009,
    WHvX64RegisterXmm10 = 0x0000100A,
    WHvX64RegisterXmm11 = 0x0000100B,
    WHvX64RegisterXmm12 = 0x0000100C,
    WHvX64RegisterXmm13 = 0x0000100D,
    WHvX64RegisterXmm14 = 0x0000100E,
    WHvX64RegisterXmm15 = 0x0000100F,

    /* x87 and MMX registers: Fp, and FpControlStatus and XmmControlStatus. */
    WHvX64RegisterFpMmx0 = 0x00001010,
    WHvX64RegisterFpMmx1 = 0x00001011,
    WHvX64RegisterFpMmx2 = 0x00001012,
    WHvX64RegisterFpMmx3 = 0x00001013,
    WHvX64RegisterFpMmx4 = 0x00001014,
    WHvX64RegisterFpMmx5 = 0x00001015,
    WHvX64RegisterFpMmx6 = 0x00001016,
    WHvX64RegisterFpMmx7 = 0x00001017,
    WHvX64RegisterFpControlStatus = 0x00001018,
    WHvX64RegisterXmmControlStatus = 0x00001019,

    /* Model-specific registers. */
    WHvX64RegisterTsc = 0x00002000,
    WHvX64RegisterEfer = 0x00002001,
    WHvX64RegisterKernelGsBase = 0x00002002,
    WHvX64RegisterApicBase = 0x00002003,
    WHvX64RegisterPat = 0x00002004,
    WHvX64RegisterSysenterCs = 0x00002005,
    WHvX64RegisterSysenterEip = 0x00002006,
    WHvX64RegisterSysenterEsp = 0x00002007,
    WHvX64RegisterStar = 0x00002008,
    WHvX64RegisterLstar = 0x00002009,
    WHvX64RegisterCstar = 0x0000200A,
    WHvX64RegisterSfmask = 0x0000200B,
    WHvX64RegisterInitialApicId = 0x0000200C,

    /* Memory type range registers (SDM vol. 3A 12.11). */
    WHvX64RegisterMsrMtrrCap = 0x0000200D,
    WHvX64RegisterMsrMtrrDefType = 0x0000200E,
    WHvX64RegisterMsrMtrrPhysBase0 = 0x00002010,
    WHvX64RegisterMsrMtrrPhysBase1 = 0x00002011,
    WHvX64RegisterMsrMtrrPhysBase2 = 0x00002012,
    WHvX64RegisterMsrMtrrPhysBase3 = 0x00002013,
    WHvX64RegisterMsrMtrrPhysBase4 = 0x00002014,
    WHvX64RegisterMsrMtrrPhysBase5 = 0x00002015,
    WHvX64RegisterMsrMtrrPhysBase6 = 0x00002016,
    WHvX64RegisterMsrMtrrPhysBase7 = 0x00002017,
    WHvX64RegisterMsrMtrrPhysBase8 = 0x00002018,
    WHvX64RegisterMsrMtrrPhysBase9 = 0x00002019,
    WHvX64RegisterMsrMtrrPhysBaseA = 0x0000201A,
    WHvX64RegisterMsrMtrrPhysBaseB = 0x0000201B,
    WHvX64RegisterMsrMtrrPhysBaseC = 0x0000201C,
    WHvX64RegisterMsrMtrrPhysBaseD = 0x0000201D,
    WHvX64RegisterMsrMtrrPhysBaseE = 0x0000201E,
    WHvX64RegisterMsrMtrrPhysBaseF = 0x0000201F,
    WHvX64RegisterMsrMtrrPhysMask0 = 0x00002040,
    WHvX64RegisterMsrMtrrPhysMask1 = 0x00002041,
    WHvX64RegisterMsrMtrrPhysMask2 = 0x00002042,
    WHvX64RegisterMsrMtrrPhysMask3 = 0x00002043,
    WHvX64RegisterMsrMtrrPhysMask4 = 0x00002044,
    WHvX64RegisterMsrMtrrPhysMask5 = 0x00002045,
    WHvX64RegisterMsrMtrrPhysMask6 = 0x00002046,
    WHvX64RegisterMsrMtrrPhysMask7 = 0x00002047,
    WHvX64RegisterMsrMtrrPhysMask8 = 0x00002048,
    WHvX64RegisterMsrMtrrPhysMask9 = 0x00002049,
    WHvX64RegisterMsrMtrrPhysMaskA = 0x0000204A,
    WHvX64RegisterMsrMtrrPhysMaskB = 0x0000204B,
    WHvX64RegisterMsrMtrrPhysMaskC = 0x0000204C,
    WHvX64RegisterMsrMtrrPhysMaskD = 0x0000204D,
    WHvX64RegisterMsrMtrrPhysMaskE = 0x0000204E,
    WHvX64RegisterMsrMtrrPhysMaskF = 0x0000204F,
    WHvX64RegisterMsrMtrrFix64k00000 = 0x00002070,
    WHvX64RegisterMsrMtrrFix16k80000 = 0x00002071,
    WHvX64RegisterMsrMtrrFix16kA0000 = 0x00002072,
    WHvX64RegisterMsrMtrrFix4kC0000 = 0x00002073,
    WHvX64RegisterMsrMtrrFix4kC8000 = 0x00002074,
    WHvX64RegisterMsrMtrrFix4kD0000 = 0x00002075,
    WHvX64RegisterMsrMtrrFix4kD8000 = 0x00002076,
    WHvX64RegisterMsrMtrrFix4kE0000 = 0x00002077,
    WHvX64RegisterMsrMtrrFix4kE8000 = 0x00002078,
    WHvX64RegisterMsrMtrrFix4kF0000 = 0x00002079,
    WHvX64RegisterMsrMtrrFix4kF8000 = 0x0000207A,

    /* More model-specific registers. */
    WHvX64RegisterTscAux = 0x0000207B,
    WHvX64RegisterBndcfgs = 0x0000207C,
    WHvX64RegisterMCount = 0x0000207E,
    WHvX64RegisterACount = 0x0000207F,
    WHvX64RegisterSpecCtrl = 0x00002084,
    WHvX64RegisterPredCmd = 0x00002085,
    WHvX64RegisterTscVirtualOffset = 0x00002087,
    WHvX64RegisterTsxCtrl = 0x00002088,
    WHvX64RegisterXss = 0x0000208B,
    WHvX64RegisterUCet = 0x0000208C,
    WHvX64RegisterSCet = 0x0000208D,
    WHvX64RegisterSsp = 0x0000208E,
    WHvX64RegisterPl0Ssp = 0x0000208F,
    WHvX64RegisterPl1Ssp = 0x00002090,
    WHvX64RegisterPl2Ssp = 0x00002091,
    WHvX64RegisterPl3Ssp = 0x00002092,
    WHvX64RegisterInterruptSspTableAddr = 0x00002093,
    WHvX64RegisterTscDeadline = 0x00002095,
    WHvX64RegisterTscAdjust = 0x00002096,
    WHvX64RegisterUmwaitControl = 0x00002098,
    WHvX64RegisterXfd = 0x00002099,
    WHvX64RegisterXfdErr = 0x0000209A,

    /* Feature control, and the capabilities of nested virtualisation. */
    WHvX64RegisterMsrIa32MiscEnable = 0x000020A0,
    WHvX64RegisterIa32FeatureControl = 0x000020A1,
    WHvX64RegisterIa32VmxBasic = 0x000020A2,
    WHvX64RegisterIa32VmxPinbasedCtls = 0x000020A3,
    WHvX64RegisterIa32VmxProcbasedCtls = 0x000020A4,
    WHvX64RegisterIa32VmxExitCtls = 0x000020A5,
    WHvX64RegisterIa32VmxEntryCtls = 0x000020A6,
    WHvX64RegisterIa32VmxMisc = 0x000020A7,
    WHvX64RegisterIa32VmxCr0Fixed0 = 0x000020A8,
    WHvX64RegisterIa32VmxCr0Fixed1 = 0x000020A9,
    WHvX64RegisterIa32VmxCr4Fixed0 = 0x000020AA,
    WHvX64RegisterIa32VmxCr4Fixed1 = 0x000020AB,
    WHvX64RegisterIa32VmxVmcsEnum = 0x000020AC,
    WHvX64RegisterIa32VmxProcbasedCtls2 = 0x000020AD,
    WHvX64RegisterIa32VmxEptVpidCap = 0x000020AE,
    WHvX64RegisterIa32VmxTruePinbasedCtls = 0x000020AF,
    WHvX64RegisterIa32VmxTrueProcbasedCtls = 0x000020B0,
    WHvX64RegisterIa32VmxTrueExitCtls = 0x000020B1,
    WHvX64RegisterIa32VmxTrueEntryCtls = 0x000020B2,
    WHvX64RegisterAmdVmHsavePa = 0x000020B3,
    WHvX64RegisterAmdVmCr = 0x000020B4,

    /* Local APIC, in the numbering of the x2APIC registers (SDM vol. 3A 11.12.1.2). */
    WHvX64RegisterApicId = 0x00003002,
    WHvX64RegisterApicVersion = 0x00003003,
    WHvX64RegisterApicTpr = 0x00003008,
    WHvX64RegisterApicPpr = 0x0000300A,
    WHvX64RegisterApicEoi = 0x0000300B,
    WHvX64RegisterApicLdr = 0x0000300D,
    WHvX64RegisterApicSpurious = 0x0000300F,
    WHvX64RegisterApicIsr0 = 0x00003010,
    WHvX64RegisterApicIsr1 = 0x00003011,
    WHvX64RegisterApicIsr2 = 0x00003012,
    WHvX64RegisterApicIsr3 = 0x00003013,
    WHvX64RegisterApicIsr4 = 0x00003014,
    WHvX64RegisterApicIsr5 = 0x00003015,
    WHvX64RegisterApicIsr6 = 0x00003016,
    WHvX64RegisterApicIsr7 = 0x00003017,
    WHvX64RegisterApicTmr0 = 0x00003018,
    WHvX64RegisterApicTmr1 = 0x00003019,
    WHvX64RegisterApicTmr2 = 0x0000301A,
    WHvX64RegisterApicTmr3 = 0x0000301B,
    WHvX64RegisterApicTmr4 = 0x0000301C,
    WHvX64RegisterApicTmr5 = 0x0000301D,
    WHvX64RegisterApicTmr6 = 0x0000301E,
    WHvX64RegisterApicTmr7 = 0x0000301F,
    WHvX64RegisterApicIrr0 = 0x00003020,
    WHvX64RegisterApicIrr1 = 0x00003021,
    WHvX64RegisterApicIrr2 = 0x00003022,
    WHvX64RegisterApicIrr3 = 0x00003023,
    WHvX64RegisterApicIrr4 = 0x00003024,
    WHvX64RegisterApicIrr5 = 0x00003025,
    WHvX64RegisterApicIrr6 = 0x00003026,
    WHvX64RegisterApicIrr7 = 0x00003027,
    WHvX64RegisterApicEse = 0x00003028,
    WHvX64RegisterApicIcr = 0x00003030,
    WHvX64RegisterApicLvtTimer = 0x00003032,
    WHvX64RegisterApicLvtThermal = 0x00003033,
    WHvX64RegisterApicLvtPerfmon = 0x00003034,
    WHvX64RegisterApicLvtLint0 = 0x00003035,
    WHvX64RegisterApicLvtLint1 = 0x00003036,
    WHvX64RegisterApicLvtError = 0x00003037,
    WHvX64RegisterApicInitCount = 0x00003038,
    WHvX64RegisterApicCurrentCount = 0x00003039,
    WHvX64RegisterApicDivide = 0x0000303E,
    WHvX64RegisterApicSelfIpi = 0x0000303F,

    /* Synthetic interrupt controller (TLFS 11). */
    WHvRegisterSint0 = 0x00004000,
    WHvRegisterSint1 = 0x00004001,
    WHvRegisterSint2 = 0x00004002,
    WHvRegisterSint3 = 0x00004003,
    WHvRegisterSint4 = 0x00004004,
    WHvRegisterSint5 = 0x00004005,
    WHvRegisterSint6 = 0x00004006,
    WHvRegisterSint7 = 0x00004007,
    WHvRegisterSint8 = 0x00004008,
    WHvRegisterSint9 = 0x00004009,
    WHvRegisterSint10 = 0x0000400A,
    WHvRegisterSint11 = 0x0000400B,
    WHvRegisterSint12 = 0x0000400C,
    WHvRegisterSint13 = 0x0000400D,
    WHvRegisterSint14 = 0x0000400E,
    WHvRegisterSint15 = 0x0000400F,
    WHvRegisterScontrol = 0x00004010,
    WHvRegisterSversion = 0x00004011,
    WHvRegisterSiefp = 0x00004012,
    WHvRegisterSimp = 0x00004013,
    WHvRegisterEom = 0x00004014,

    /* Registers that the hypervisor defines (TLFS). */
    WHvRegisterVpRuntime = 0x00005000, /* in 100 ns */
    WHvX64RegisterHypercall = 0x00005001,
    WHvRegisterGuestOsId = 0x00005002,
    WHvRegisterVpAssistPage = 0x00005013,
    WHvRegisterReferenceTsc = 0x00005017,
    WHvRegisterReferenceTscSequence = 0x0000501A,

    /* Nested virtualisation: NestedState, Reg64, InvEpt and InvVpid. */
    WHvX64RegisterNestedGuestState = 0x00005050,
    WHvX64RegisterNestedCurrentVmGpa = 0x00005051,
    WHvX64RegisterNestedVmxInvEpt = 0x00005052,
    WHvX64RegisterNestedVmxInvVpid = 0x00005053,

    /* What the processor is about to deliver, and what keeps it from running. */
    WHvRegisterPendingInterruption = 0x80000000, /* PendingInterruption */
    WHvRegisterInterruptState = 0x80000001, /* InterruptState */
    WHvRegisterPendingEvent = 0x80000002, /* ExceptionEvent, ExtIntEvent, SvmNestedExit0 or VmxNestedExit0 */
    WHvRegisterPendingEvent1 = 0x80000003, /* SvmNestedExit1 or VmxNestedExit1 */
    WHvX64RegisterDeliverabilityNotifications = 0x80000004, /* DeliverabilityNotifications */
    WHvRegisterDeliverabilityNotifications = 0x80000004, /* the same register */
    WHvRegisterInternalActivityState = 0x80000005, /* InternalActivity */
    WHvX64RegisterPendingDebugException = 0x80000006, /* PendingDebugException */
    WHvRegisterPendingEvent2 = 0x80000007, /* SvmNestedExit2 or VmxNestedExit2 */
    WHvRegisterPendingEvent3 = 0x80000008 /* SvmNestedExit3 */
} WHV_REGISTER_NAME;

/* ---- Values of registers ------------------------------------------------------------------------------- */

/* A 128-bit value. It is the one type of this API that asks for an alignment of 16. */
typedef union DECLSPEC_ALIGN(16) WHV_UINT128 {
    struct {
        UINT64 Low64;
        UINT64 High64;
    };
    UINT32 Dword[4];
} WHV_UINT128;
C_ASSERT(sizeof(WHV_UINT128) == 16);

/* An x87 register: the 80-bit extended format (SDM vol. 1 4.2.2). An MMX register is the mantissa. */
typedef union WHV_X64_FP_REGISTER {
    struct {
        UINT64 Mantissa;
        UINT64 BiasedExponent : 15;
        UINT64 Sign : 1;
        UINT64 Reserved : 48;
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_FP_REGISTER;
C_ASSERT(sizeof(WHV_X64_FP_REGISTER) == 16);

/* The x87 control state in the layout of the first 16 bytes of an FXSAVE area (SDM vol. 1 10.5.1). */
typedef union WHV_X64_FP_CONTROL_STATUS_REGISTER {
    struct {
        UINT16 FpControl;
        UINT16 FpStatus;
        UINT8 FpTag; /* abridged: a bit is 1 where the register is not empty */
        UINT8 Reserved;
        UINT16 LastFpOp;
        union {
            UINT64 LastFpRip; /* long mode */
            struct {
                UINT32 LastFpEip; /* other modes */
                UINT16 LastFpCs;
                UINT16 Reserved2;
            };
        };
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_FP_CONTROL_STATUS_REGISTER;
C_ASSERT(sizeof(WHV_X64_FP_CONTROL_STATUS_REGISTER) == 16);

/* The second 16 bytes of an FXSAVE area (SDM vol. 1 10.5.1). */
typedef union WHV_X64_XMM_CONTROL_STATUS_REGISTER {
    struct {
        union {
            UINT64 LastFpRdp; /* long mode */
            struct {
                UINT32 LastFpDp; /* other modes */
                UINT16 LastFpDs;
                UINT16 Reserved;
            };
        };
        UINT32 XmmStatusControl; /* MXCSR */
        UINT32 XmmStatusControlMask; /* MXCSR_MASK, cannot be written */
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_XMM_CONTROL_STATUS_REGISTER;
C_ASSERT(sizeof(WHV_X64_XMM_CONTROL_STATUS_REGISTER) == 16);

/* A segment register with its hidden part (SDM vol. 3A 3.4.3). Limit is in bytes, whatever Granularity
 * says. */
typedef struct WHV_X64_SEGMENT_REGISTER {
    UINT64 Base;
    UINT32 Limit;
    UINT16 Selector;
    union {
        struct {
            UINT16 SegmentType : 4; /* type field of the descriptor (SDM vol. 3A 3.4.5.1, 3.5) */
            UINT16 NonSystemSegment : 1; /* 1: code or data (the S bit) */
            UINT16 DescriptorPrivilegeLevel : 2;
            UINT16 Present : 1;
            UINT16 Reserved : 4;
            UINT16 Available : 1;
            UINT16 Long : 1;
            UINT16 Default : 1; /* the D/B bit */
            UINT16 Granularity : 1;
        };
        UINT16 Attributes;
    };
} WHV_X64_SEGMENT_REGISTER;
C_ASSERT(sizeof(WHV_X64_SEGMENT_REGISTER) == 16);

/* GDTR or IDTR. */
typedef struct WHV_X64_TABLE_REGISTER {
    UINT16 Pad[3];
    UINT16 Limit;
    UINT64 Base;
} WHV_X64_TABLE_REGISTER;
C_ASSERT(sizeof(WHV_X64_TABLE_REGISTER) == 16);

/* What holds back interrupts besides RFLAGS.IF. */
typedef union WHV_X64_INTERRUPT_STATE_REGISTER {
    struct {
        UINT64 InterruptShadow : 1; /* after STI, MOV SS or POP SS (SDM vol. 3A 6.8.3) */
        UINT64 NmiMasked : 1; /* from the delivery of an NMI to the next IRET */
        UINT64 Reserved : 62;
    };
    UINT64 AsUINT64;
} WHV_X64_INTERRUPT_STATE_REGISTER;
C_ASSERT(sizeof(WHV_X64_INTERRUPT_STATE_REGISTER) == 8);

/* The kind of an event that is pending delivery. */
typedef enum WHV_X64_PENDING_INTERRUPTION_TYPE {
    WHvX64PendingInterrupt = 0,
    WHvX64PendingNmi = 2,
    WHvX64PendingException = 3
} WHV_X64_PENDING_INTERRUPTION_TYPE, *PWHV_X64_PENDING_INTERRUPTION_TYPE;

/* An event that is delivered before the next instruction: one that an exit interrupted, or one that the
 * caller injects. It is not held back by RFLAGS.IF. */
typedef union WHV_X64_PENDING_INTERRUPTION_REGISTER {
    struct {
        UINT32 InterruptionPending : 1;
        UINT32 InterruptionType : 3; /* WHV_X64_PENDING_INTERRUPTION_TYPE */
        UINT32 DeliverErrorCode : 1;
        UINT32 InstructionLength : 4; /* of the instruction that raised a software interrupt or exception */
        UINT32 NestedEvent : 1; /* the event is one of a nested guest */
        UINT32 Reserved : 6;
        UINT32 InterruptionVector : 16;
        UINT32 ErrorCode;
    };
    UINT64 AsUINT64;
} WHV_X64_PENDING_INTERRUPTION_REGISTER;
C_ASSERT(sizeof(WHV_X64_PENDING_INTERRUPTION_REGISTER) == 8);

/* Asks for a WHvRunVpExitReasonX64InterruptWindow exit as soon as the guest could take an event. A bit
 * clears
 * itself when its exit has come. */
typedef union WHV_DELIVERABILITY_NOTIFICATIONS_REGISTER {
    struct {
        UINT64 NmiNotification : 1;
        UINT64 InterruptNotification : 1;
        UINT64 InterruptPriority : 4; /* only for interrupts above this priority class; 0 for any */
        UINT64 Reserved : 42;
        UINT64 Sint : 16; /* a bit for each SINT: asks for WHvRunVpExitReasonSynicSintDeliverable */
    };
    UINT64 AsUINT64;
} WHV_DELIVERABILITY_NOTIFICATIONS_REGISTER, WHV_X64_DELIVERABILITY_NOTIFICATIONS_REGISTER;
C_ASSERT(sizeof(WHV_DELIVERABILITY_NOTIFICATIONS_REGISTER) == 8);

/* What the pending event registers hold. */
typedef enum WHV_X64_PENDING_EVENT_TYPE {
    WHvX64PendingEventException = 0,
    WHvX64PendingEventExtInt = 5,
    WHvX64PendingEventSvmNestedExit = 7,
    WHvX64PendingEventVmxNestedExit = 8
} WHV_X64_PENDING_EVENT_TYPE;

/* An exception to be delivered, in WHvRegisterPendingEvent. */
typedef union WHV_X64_PENDING_EXCEPTION_EVENT {
    struct {
        UINT32 EventPending : 1;
        UINT32 EventType : 3; /* WHvX64PendingEventException */
        UINT32 Reserved0 : 4;
        UINT32 DeliverErrorCode : 1;
        UINT32 Reserved1 : 7;
        UINT32 Vector : 16;
        UINT32 ErrorCode;
        UINT64 ExceptionParameter; /* the address for #PF; the bits for DR6 for #DB */
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_PENDING_EXCEPTION_EVENT;
C_ASSERT(sizeof(WHV_X64_PENDING_EXCEPTION_EVENT) == 16);

/* An interrupt from outside the local APIC to be delivered as soon as the guest takes interrupts. There is
 * one slot, not a queue. Needs an APIC emulation mode. */
typedef union WHV_X64_PENDING_EXT_INT_EVENT {
    struct {
        UINT64 EventPending : 1;
        UINT64 EventType : 3; /* WHvX64PendingEventExtInt */
        UINT64 Reserved0 : 4;
        UINT64 Vector : 8;
        UINT64 Reserved1 : 48;
        UINT64 Reserved2;
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_PENDING_EXT_INT_EVENT;
C_ASSERT(sizeof(WHV_X64_PENDING_EXT_INT_EVENT) == 16);

/* A pending exit of a nested guest on an AMD processor, in four registers, this one in
 * WHvRegisterPendingEvent. The fields are those of the VMCB (APM vol. 2 appendix B). */
typedef union WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT0 {
    struct {
        UINT64 EventPending : 1;
        UINT64 EventType : 4; /* WHvX64PendingEventSvmNestedExit */
        UINT64 Reserved0 : 3;
        UINT64 InstructionBytesValid : 1;
        UINT64 Reserved1 : 55;
        UINT64 ExitCode;
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT0;
C_ASSERT(sizeof(WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT0) == 16);

/* In WHvRegisterPendingEvent1. */
typedef union WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT1 {
    struct {
        UINT64 ExitInfo1;
        UINT64 ExitInfo2;
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT1;
C_ASSERT(sizeof(WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT1) == 16);

/* In WHvRegisterPendingEvent2. */
typedef union WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT2 {
    struct {
        UINT64 NextRip;
        UINT8 InstructionBytesFetchedCount;
        UINT8 InstructionBytes[7]; /* the first 7 of 15 */
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT2;
C_ASSERT(sizeof(WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT2) == 16);

/* In WHvRegisterPendingEvent3. */
typedef union WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT3 {
    struct {
        UINT8 InstructionBytes[8]; /* the other 8 */
        UINT64 Reserved2;
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT3;
C_ASSERT(sizeof(WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT3) == 16);

/* A pending exit of a nested guest on an Intel processor, in three registers, this one in
 * WHvRegisterPendingEvent. The fields are those of the VMCS (SDM vol. 3C 25.9). */
typedef union WHV_X64_PENDING_VMX_NESTED_EXIT_EVENT0 {
    struct {
        UINT32 EventPending : 1;
        UINT32 EventType : 4; /* WHvX64PendingEventVmxNestedExit */
        UINT32 Reserved0 : 27;
        UINT32 ExitReason;
        UINT64 ExitQualification;
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_PENDING_VMX_NESTED_EXIT_EVENT0;
C_ASSERT(sizeof(WHV_X64_PENDING_VMX_NESTED_EXIT_EVENT0) == 16);

/* In WHvRegisterPendingEvent1. */
typedef union WHV_X64_PENDING_VMX_NESTED_EXIT_EVENT1 {
    struct {
        UINT32 InstructionLength;
        UINT32 InstructionInfo;
        UINT32 ExitInterruptionInfo;
        UINT32 ExitExceptionErrorCode;
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_PENDING_VMX_NESTED_EXIT_EVENT1;
C_ASSERT(sizeof(WHV_X64_PENDING_VMX_NESTED_EXIT_EVENT1) == 16);

/* In WHvRegisterPendingEvent2. */
typedef union WHV_X64_PENDING_VMX_NESTED_EXIT_EVENT2 {
    struct {
        UINT64 GuestLinearAddress;
        UINT64 GuestPhysicalAddress;
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_PENDING_VMX_NESTED_EXIT_EVENT2;
C_ASSERT(sizeof(WHV_X64_PENDING_VMX_NESTED_EXIT_EVENT2) == 16);

/* The operands of an INVEPT on behalf of a nested hypervisor (SDM vol. 3C 31.3). */
typedef union WHV_X64_NESTED_INVEPT_REGISTER {
    struct {
        UINT8 Type;
        UINT8 Reserved[7];
        UINT64 Eptp;
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_NESTED_INVEPT_REGISTER;
C_ASSERT(sizeof(WHV_X64_NESTED_INVEPT_REGISTER) == 16);

/* The operands of an INVVPID on behalf of a nested hypervisor (SDM vol. 3C 31.3). */
typedef union WHV_X64_NESTED_INVVPID_REGISTER {
    struct {
        UINT8 Type;
        UINT8 Reserved[3];
        UINT32 Vpid;
        UINT64 LinearAddress;
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_NESTED_INVVPID_REGISTER;
C_ASSERT(sizeof(WHV_X64_NESTED_INVVPID_REGISTER) == 16);

/* Whether the processor runs a nested guest. */
typedef union WHV_X64_NESTED_GUEST_STATE {
    struct {
        UINT64 NestedVirtActive : 1; /* VMX or SVM operation is on */
        UINT64 NestedGuestMode : 1; /* the nested guest runs, not its hypervisor */
        UINT64 VmEntryPending : 1;
        UINT64 Reserved0 : 61;
        UINT64 Reserved1;
    };
    WHV_UINT128 AsUINT128;
} WHV_X64_NESTED_GUEST_STATE;
C_ASSERT(sizeof(WHV_X64_NESTED_GUEST_STATE) == 16);

/* Why the processor does not execute instructions. */
typedef union WHV_INTERNAL_ACTIVITY_REGISTER {
    struct {
        UINT64 StartupSuspend : 1; /* waits for a startup IPI */
        /* halted, waits for an interrupt; without APIC emulation a halt exits instead */
        UINT64 HaltSuspend : 1;
        UINT64 IdleSuspend : 1; /* idle by the hypervisor's guest idle register (TLFS 10.1.4) */
        UINT64 Reserved : 61;
    };
    UINT64 AsUINT64;
} WHV_INTERNAL_ACTIVITY_REGISTER;
C_ASSERT(sizeof(WHV_INTERNAL_ACTIVITY_REGISTER) == 8);

/* Debug conditions that become a #DB before the next instruction; the bits are those of DR6. */
typedef union WHV_X64_PENDING_DEBUG_EXCEPTION {
    UINT64 AsUINT64;
    struct {
        UINT64 Breakpoint0 : 1;
        UINT64 Breakpoint1 : 1;
        UINT64 Breakpoint2 : 1;
        UINT64 Breakpoint3 : 1;
        UINT64 SingleStep : 1;
        UINT64 Reserved0 : 59;
    };
} WHV_X64_PENDING_DEBUG_EXCEPTION;
C_ASSERT(sizeof(WHV_X64_PENDING_DEBUG_EXCEPTION) == 8);

/* The value of one register; the comments at WHV_REGISTER_NAME say which member. */
typedef union WHV_REGISTER_VALUE {
    WHV_UINT128 Reg128;
    UINT64 Reg64;
    UINT32 Reg32;
    UINT16 Reg16;
    UINT8 Reg8;
    WHV_INTERNAL_ACTIVITY_REGISTER InternalActivity;
    WHV_DELIVERABILITY_NOTIFICATIONS_REGISTER DeliverabilityNotifications;
    WHV_X64_FP_REGISTER Fp;
    WHV_X64_FP_CONTROL_STATUS_REGISTER FpControlStatus;
    WHV_X64_XMM_CONTROL_STATUS_REGISTER XmmControlStatus;
    WHV_X64_SEGMENT_REGISTER Segment;
    WHV_X64_TABLE_REGISTER Table;
    WHV_X64_INTERRUPT_STATE_REGISTER InterruptState;
    WHV_X64_PENDING_INTERRUPTION_REGISTER PendingInterruption;
    WHV_X64_PENDING_EXCEPTION_EVENT ExceptionEvent;
    WHV_X64_PENDING_EXT_INT_EVENT ExtIntEvent;
    WHV_X64_PENDING_DEBUG_EXCEPTION PendingDebugException;
    WHV_X64_NESTED_GUEST_STATE NestedState;
    WHV_X64_NESTED_INVEPT_REGISTER InvEpt;
    WHV_X64_NESTED_INVVPID_REGISTER InvVpid;
    WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT0 SvmNestedExit0;
    WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT1 SvmNestedExit1;
    WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT2 SvmNestedExit2;
    WHV_X64_PENDING_SVM_NESTED_EXIT_EVENT3 SvmNestedExit3;
    WHV_X64_PENDING_VMX_NESTED_EXIT_EVENT0 VmxNestedExit0;
    WHV_X64_PENDING_VMX_NESTED_EXIT_EVENT1 VmxNestedExit1;
    WHV_X64_PENDING_VMX_NESTED_EXIT_EVENT2 VmxNestedExit2;
} WHV_REGISTER_VALUE;
C_ASSERT(sizeof(WHV_REGISTER_VALUE) == 16);

/* ---- Capabilities -------------------------------------------------------------------------------------- */

/* What WHvGetCapability can be asked for, with the member of WHV_CAPABILITY that answers. */
typedef enum WHV_CAPABILITY_CODE {
    /* The platform. */
    WHvCapabilityCodeHypervisorPresent = 0x00000000,
    WHvCapabilityCodeFeatures = 0x00000001,
    WHvCapabilityCodeExtendedVmExits = 0x00000002,
    WHvCapabilityCodeExceptionExitBitmap = 0x00000003, /* the exceptions that can exit, as in the property */
    WHvCapabilityCodeX64MsrExitBitmap = 0x00000004,
    WHvCapabilityCodeGpaRangePopulateFlags = 0x00000005, /* GpaRangePopulateFlags */
    WHvCapabilityCodeSchedulerFeatures = 0x00000006,

    /* The processor. */
    WHvCapabilityCodeProcessorVendor = 0x00001000,
    WHvCapabilityCodeProcessorFeatures = 0x00001001, /* ProcessorFeatures, the first bank only */
    /* in units of 8 bytes, as CPUID leaf 1 tells it in EBX */
    WHvCapabilityCodeProcessorClFlushSize = 0x00001002,
    WHvCapabilityCodeProcessorXsaveFeatures = 0x00001003,
    WHvCapabilityCodeProcessorClockFrequency = 0x00001004,
    WHvCapabilityCodeInterruptClockFrequency = 0x00001005,
    WHvCapabilityCodeProcessorFeaturesBanks = 0x00001006,
    WHvCapabilityCodeProcessorFrequencyCap = 0x00001007,
    WHvCapabilityCodeSyntheticProcessorFeaturesBanks = 0x00001008,
    WHvCapabilityCodeProcessorPerfmonFeatures = 0x00001009,
    WHvCapabilityCodePhysicalAddressWidth = 0x0000100A,

    /* The capability registers of nested VMX: NestedFeatureRegister (SDM vol. 3D appendix A). */
    WHvCapabilityCodeVmxBasic = 0x00002000,
    WHvCapabilityCodeVmxPinbasedCtls = 0x00002001,
    WHvCapabilityCodeVmxProcbasedCtls = 0x00002002,
    WHvCapabilityCodeVmxExitCtls = 0x00002003,
    WHvCapabilityCodeVmxEntryCtls = 0x00002004,
    WHvCapabilityCodeVmxMisc = 0x00002005,
    WHvCapabilityCodeVmxCr0Fixed0 = 0x00002006,
    WHvCapabilityCodeVmxCr0Fixed1 = 0x00002007,
    WHvCapabilityCodeVmxCr4Fixed0 = 0x00002008,
    WHvCapabilityCodeVmxCr4Fixed1 = 0x00002009,
    WHvCapabilityCodeVmxVmcsEnum = 0x0000200A,
    WHvCapabilityCodeVmxProcbasedCtls2 = 0x0000200B,
    WHvCapabilityCodeVmxEptVpidCap = 0x0000200C,
    WHvCapabilityCodeVmxTruePinbasedCtls = 0x0000200D,
    WHvCapabilityCodeVmxTrueProcbasedCtls = 0x0000200E,
    WHvCapabilityCodeVmxTrueExitCtls = 0x0000200F,
    WHvCapabilityCodeVmxTrueEntryCtls = 0x00002010
} WHV_CAPABILITY_CODE;

/* What this implementation of the API can do. A bit is set only where the thing works. */
typedef union WHV_CAPABILITY_FEATURES {
    struct {
        UINT64 PartialUnmap : 1; /* WHvUnmapGpaRange takes parts of what was mapped */
        UINT64 LocalApicEmulation : 1;
        UINT64 Xsave : 1; /* WHvGetVirtualProcessorXsaveState and its counterpart */
        UINT64 DirtyPageTracking : 1; /* WHvMapGpaRangeFlagTrackDirtyPages */
        UINT64 SpeculationControl : 1; /* the guest can use the SPEC_CTRL and PRED_CMD registers */
        UINT64 ApicRemoteRead : 1; /* the APIC's remote read delivery mode */
        UINT64 IdleSuspend : 1; /* WHV_INTERNAL_ACTIVITY_REGISTER.IdleSuspend */
        UINT64 VirtualPciDeviceSupport : 1;
        UINT64 IommuSupport : 1;
        UINT64 VpHotAddRemove : 1; /* processors can be created and deleted while others run */
        UINT64 DeviceAccessTracking : 1;
        UINT64 ReservedX640 : 1;
        UINT64 Reserved : 52;
    };
    UINT64 AsUINT64;
} WHV_CAPABILITY_FEATURES;
C_ASSERT(sizeof(WHV_CAPABILITY_FEATURES) == 8);

/* Exits that happen only when asked for: what is possible (as a capability), and what is wanted (as a
 * property). */
typedef union WHV_EXTENDED_VM_EXITS {
    struct {
        UINT64 X64CpuidExit : 1; /* WHvRunVpExitReasonX64Cpuid */
        UINT64 X64MsrExit : 1; /* WHvRunVpExitReasonX64MsrAccess */
        UINT64 ExceptionExit : 1; /* WHvRunVpExitReasonException, for the exceptions of ExceptionExitBitmap */
        UINT64 X64RdtscExit : 1; /* WHvRunVpExitReasonX64Rdtsc */
        UINT64 X64ApicSmiExitTrap : 1; /* WHvRunVpExitReasonX64ApicSmiTrap */
        UINT64 HypercallExit : 1; /* WHvRunVpExitReasonHypercall */
        UINT64 X64ApicInitSipiExitTrap : 1; /* WHvRunVpExitReasonX64ApicInitSipiTrap */
        /* WHvRunVpExitReasonX64ApicWriteTrap, as for the other APIC writes below */
        UINT64 X64ApicWriteLint0ExitTrap : 1;
        UINT64 X64ApicWriteLint1ExitTrap : 1;
        UINT64 X64ApicWriteSvrExitTrap : 1;
        /* a hypercall exit for a signal to a connection that does not exist */
        UINT64 UnknownSynicConnection : 1;
        /* a hypercall exit for a retarget of a device that does not exist */
        UINT64 RetargetUnknownVpciDevice : 1;
        UINT64 X64ApicWriteLdrExitTrap : 1;
        UINT64 X64ApicWriteDfrExitTrap : 1;
        /* a memory exit for the first access to each page, also where it is permitted */
        UINT64 GpaAccessFaultExit : 1;
        UINT64 Reserved : 49;
    };
    UINT64 AsUINT64;
} WHV_EXTENDED_VM_EXITS;
C_ASSERT(sizeof(WHV_EXTENDED_VM_EXITS) == 8);

/* Who made the processor, as CPUID leaf 0 says. */
typedef enum WHV_PROCESSOR_VENDOR {
    WHvProcessorVendorAmd = 0x0000,
    WHvProcessorVendorIntel = 0x0001,
    WHvProcessorVendorHygon = 0x0002,
    WHvProcessorVendorArm = 0x0010
} WHV_PROCESSOR_VENDOR;

/* Features of the processor, first bank: what the guest can have (as a capability), and what it gets (as a
 * property, a subset). Most bits are the CPUID feature of the same name (SDM vol. 2A CPUID, APM vol. 3
 * appendix E). */
typedef union WHV_X64_PROCESSOR_FEATURES {
    struct {
        UINT64 Sse3Support : 1;
        UINT64 LahfSahfSupport : 1; /* LAHF and SAHF in 64-bit mode */
        UINT64 Ssse3Support : 1;
        UINT64 Sse4_1Support : 1;
        UINT64 Sse4_2Support : 1;
        UINT64 Sse4aSupport : 1;
        UINT64 XopSupport : 1;
        UINT64 PopCntSupport : 1;
        UINT64 Cmpxchg16bSupport : 1;
        UINT64 Altmovcr8Support : 1; /* LOCK MOV CR0 reaches CR8 */
        UINT64 LzcntSupport : 1;
        UINT64 MisAlignSseSupport : 1;
        UINT64 MmxExtSupport : 1; /* AMD's extensions to MMX */
        UINT64 Amd3DNowSupport : 1;
        UINT64 ExtendedAmd3DNowSupport : 1;
        UINT64 Page1GbSupport : 1;
        UINT64 AesSupport : 1;
        UINT64 PclmulqdqSupport : 1;
        UINT64 PcidSupport : 1;
        UINT64 Fma4Support : 1;
        UINT64 F16CSupport : 1;
        UINT64 RdRandSupport : 1;
        UINT64 RdWrFsGsSupport : 1; /* RDFSBASE, WRFSBASE and their kin */
        UINT64 SmepSupport : 1;
        UINT64 EnhancedFastStringSupport : 1; /* fast REP MOVSB and REP STOSB (ERMS) */
        UINT64 Bmi1Support : 1;
        UINT64 Bmi2Support : 1;
        UINT64 Reserved1 : 2;
        UINT64 MovbeSupport : 1;
        UINT64 Npiep1Support : 1; /* SGDT, SIDT, SLDT and STR can be kept from user mode */
        UINT64 DepX87FPUSaveSupport : 1; /* FCS and FDS are deprecated */
        UINT64 RdSeedSupport : 1;
        UINT64 AdxSupport : 1;
        UINT64 IntelPrefetchSupport : 1;
        UINT64 SmapSupport : 1;
        UINT64 HleSupport : 1;
        UINT64 RtmSupport : 1;
        UINT64 RdtscpSupport : 1;
        UINT64 ClflushoptSupport : 1;
        UINT64 ClwbSupport : 1;
        UINT64 ShaSupport : 1;
        /* FXSAVE saves the x87 pointers also without an exception pending */
        UINT64 X87PointersSavedSupport : 1;
        UINT64 InvpcidSupport : 1;
        UINT64 IbrsSupport : 1;
        UINT64 StibpSupport : 1;
        UINT64 IbpbSupport : 1;
        UINT64 UnrestrictedGuestSupport : 1; /* real mode and unpaged protected mode in a nested guest */
        UINT64 SsbdSupport : 1;
        UINT64 FastShortRepMovSupport : 1;
        UINT64 Reserved3 : 1;
        UINT64 RdclNo : 1; /* not affected by rogue data cache loads */
        UINT64 IbrsAllSupport : 1;
        UINT64 Reserved4 : 1;
        UINT64 SsbNo : 1; /* not affected by speculative store bypass */
        UINT64 RsbANo : 1; /* RSB alternate */
        UINT64 Reserved5 : 1;
        UINT64 RdPidSupport : 1;
        UINT64 UmipSupport : 1;
        UINT64 MdsNoSupport : 1; /* not affected by microarchitectural data sampling */
        UINT64 MdClearSupport : 1;
        UINT64 TaaNoSupport : 1; /* not affected by TSX asynchronous aborts */
        UINT64 TsxCtrlSupport : 1;
        UINT64 Reserved6 : 1;
    };
    UINT64 AsUINT64;
} WHV_X64_PROCESSOR_FEATURES, WHV_PROCESSOR_FEATURES;
C_ASSERT(sizeof(WHV_X64_PROCESSOR_FEATURES) == 8);

/* Features of the processor, second bank. */
typedef union WHV_X64_PROCESSOR_FEATURES1 {
    struct {
        UINT64 ACountMCountSupport : 1; /* APERF and MPERF */
        UINT64 TscInvariantSupport : 1;
        UINT64 ClZeroSupport : 1;
        UINT64 RdpruSupport : 1;
        UINT64 La57Support : 1; /* 57-bit linear addresses */
        UINT64 MbecSupport : 1; /* mode-based execute control */
        UINT64 NestedVirtSupport : 1;
        UINT64 PsfdSupport : 1;
        UINT64 CetSsSupport : 1;
        UINT64 CetIbtSupport : 1;
        UINT64 VmxExceptionInjectSupport : 1;
        UINT64 Reserved2 : 1;
        UINT64 UmwaitTpauseSupport : 1;
        UINT64 MovdiriSupport : 1;
        UINT64 Movdir64bSupport : 1;
        UINT64 CldemoteSupport : 1;
        UINT64 SerializeSupport : 1;
        UINT64 TscDeadlineTmrSupport : 1;
        UINT64 TscAdjustSupport : 1;
        UINT64 FZLRepMovsb : 1; /* fast REP MOVSB of length 0 */
        UINT64 FSRepStosb : 1; /* fast short REP STOSB */
        UINT64 FSRepCmpsb : 1; /* fast short REP CMPSB and SCASB */
        UINT64 TsxLdTrkSupport : 1;
        UINT64 VmxInsOutsExitInfoSupport : 1;
        UINT64 Reserved3 : 1;
        UINT64 SbdrSsdpNoSupport : 1;
        UINT64 FbsdpNoSupport : 1;
        UINT64 PsdpNoSupport : 1;
        UINT64 FbClearSupport : 1;
        UINT64 BtcNoSupport : 1;
        UINT64 IbpbRsbFlushSupport : 1;
        UINT64 StibpAlwaysOnSupport : 1;
        UINT64 PerfGlobalCtrlSupport : 1;
        UINT64 NptExecuteOnlySupport : 1;
        UINT64 NptADFlagsSupport : 1;
        UINT64 Npt1GbPageSupport : 1;
        UINT64 Reserved4 : 1;
        UINT64 Reserved5 : 1;
        UINT64 Reserved6 : 1;
        UINT64 Reserved7 : 1;
        UINT64 CmpccxaddSupport : 1;
        UINT64 Reserved8 : 1;
        UINT64 Reserved9 : 1;
        UINT64 Reserved10 : 1;
        UINT64 Reserved11 : 1;
        UINT64 PrefetchISupport : 1;
        UINT64 Sha512Support : 1;
        UINT64 Reserved12 : 1;
        UINT64 Reserved13 : 1;
        UINT64 Reserved14 : 1;
        UINT64 SM3Support : 1;
        UINT64 SM4Support : 1;
        UINT64 Reserved15 : 1;
        UINT64 Reserved16 : 1;
        UINT64 SbpbSupported : 1;
        UINT64 IbpbBrTypeSupported : 1;
        UINT64 SrsoNoSupported : 1;
        UINT64 SrsoUserKernelNoSupported : 1;
        UINT64 Reserved17 : 1;
        UINT64 Reserved18 : 1;
        UINT64 Reserved19 : 1;
        UINT64 Reserved20 : 3;
    };
    UINT64 AsUINT64;
} WHV_X64_PROCESSOR_FEATURES1, WHV_PROCESSOR_FEATURES1;
C_ASSERT(sizeof(WHV_X64_PROCESSOR_FEATURES1) == 8);

/* How many banks WHV_PROCESSOR_FEATURES_BANKS has. */
#define WHV_PROCESSOR_FEATURES_BANKS_COUNT 2

/* Both banks of processor features. */
typedef struct WHV_PROCESSOR_FEATURES_BANKS {
    UINT32 BanksCount; /* WHV_PROCESSOR_FEATURES_BANKS_COUNT, also before a call that fills the structure */
    UINT32 Reserved0;
    union {
        struct {
            WHV_PROCESSOR_FEATURES Bank0;
            WHV_PROCESSOR_FEATURES1 Bank1;
        };
        UINT64 AsUINT64[WHV_PROCESSOR_FEATURES_BANKS_COUNT];
    };
} WHV_PROCESSOR_FEATURES_BANKS;
C_ASSERT(sizeof(WHV_PROCESSOR_FEATURES_BANKS) == 24);

/* Features that the hypervisor gives the guest beyond the processor (TLFS 2.4 and 3 on). All clear: the
 * guest sees
 * no hypervisor, and CPUID leaf 0x40000000 is zero. */
typedef union WHV_SYNTHETIC_PROCESSOR_FEATURES {
    struct {
        UINT64 HypervisorPresent : 1; /* CPUID leaves 0x40000000 and 0x40000001, and bit 31 of leaf 1 ECX */
        UINT64 Hv1 : 1; /* the interface "Hv#1": leaves 0x40000000 to 0x40000006 */
        UINT64 AccessVpRunTimeReg : 1; /* HV_X64_MSR_VP_RUNTIME */
        UINT64 AccessPartitionReferenceCounter : 1; /* HV_X64_MSR_TIME_REF_COUNT */
        UINT64 AccessSynicRegs : 1; /* the registers of the synthetic interrupt controller */
        UINT64 AccessSyntheticTimerRegs : 1; /* HV_X64_MSR_STIMER0_CONFIG to HV_X64_MSR_STIMER3_COUNT */
        UINT64 AccessIntrCtrlRegs : 1; /* HV_X64_MSR_EOI, ICR, TPR and the assist page */
        UINT64 AccessHypercallRegs : 1; /* HV_X64_MSR_GUEST_OS_ID and HV_X64_MSR_HYPERCALL */
        UINT64 AccessVpIndex : 1; /* HV_X64_MSR_VP_INDEX */
        UINT64 AccessPartitionReferenceTsc : 1; /* HV_X64_MSR_REFERENCE_TSC */
        UINT64 AccessGuestIdleReg : 1; /* HV_X64_MSR_GUEST_IDLE */
        UINT64 AccessFrequencyRegs : 1; /* HV_X64_MSR_TSC_FREQUENCY and HV_X64_MSR_APIC_FREQUENCY */
        UINT64 ReservedZ12 : 1;
        UINT64 ReservedZ13 : 1;
        UINT64 ReservedZ14 : 1;
        UINT64 EnableExtendedGvaRangesForFlushVirtualAddressList : 1;
        UINT64 ReservedZ16 : 1;
        UINT64 ReservedZ17 : 1;
        UINT64 FastHypercallOutput : 1;
        UINT64 ReservedZ19 : 1;
        UINT64 ReservedZ20 : 1;
        UINT64 ReservedZ21 : 1;
        UINT64 DirectSyntheticTimers : 1; /* timers that raise an interrupt instead of sending a message */
        UINT64 ReservedZ23 : 1;
        UINT64 ExtendedProcessorMasks : 1;
        UINT64 TbFlushHypercalls : 1; /* HvCallFlushVirtualAddressSpace and HvCallFlushVirtualAddressList */
        UINT64 SyntheticClusterIpi : 1; /* HvCallSendSyntheticClusterIpi */
        UINT64 NotifyLongSpinWait : 1; /* HvCallNotifyLongSpinWait */
        UINT64 QueryNumaDistance : 1; /* HvCallQueryNumaDistance */
        UINT64 SignalEvents : 1; /* HvCallSignalEvent */
        UINT64 RetargetDeviceInterrupt : 1; /* HvCallRetargetDeviceInterrupt */
        UINT64 RestoreTime : 1; /* HvCallRestorePartitionTime */
        UINT64 EnlightenedVmcs : 1;
        UINT64 NestedDebugCtl : 1;
        UINT64 SyntheticTimeUnhaltedTimer : 1;
        UINT64 IdleSpecCtrl : 1; /* how SPEC_CTRL behaves while the processor is idle */
        UINT64 ReservedZ36 : 1;
        UINT64 WakeVps : 1;
        UINT64 AccessVpRegs : 1;
        UINT64 ReservedZ39 : 1;
        UINT64 ReservedZ40 : 1;
        UINT64 ReservedZ41 : 1;
        UINT64 ReservedZ42 : 1;
        UINT64 ReservedZ43 : 1;
        UINT64 ReservedZ44 : 1;
        UINT64 Reserved : 19;
    };
    UINT64 AsUINT64;
} WHV_SYNTHETIC_PROCESSOR_FEATURES;
C_ASSERT(sizeof(WHV_SYNTHETIC_PROCESSOR_FEATURES) == 8);

/* How many banks WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS has. */
#define WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS_COUNT 1

/* All banks of synthetic features. */
typedef struct WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS {
    /* WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS_COUNT, also before a call that fills the structure */
    UINT32 BanksCount;
    UINT32 Reserved0;
    union {
        struct {
            WHV_SYNTHETIC_PROCESSOR_FEATURES Bank0;
        };
        UINT64 AsUINT64[WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS_COUNT];
    };
} WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS;
C_ASSERT(sizeof(WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS) == 16);

/* XSAVE and the instruction sets whose registers it saves. The bits are the CPUID features of the same
 * names. */
typedef union WHV_PROCESSOR_XSAVE_FEATURES {
    struct {
        UINT64 XsaveSupport : 1;
        UINT64 XsaveoptSupport : 1;
        UINT64 AvxSupport : 1;
        UINT64 Avx2Support : 1;
        UINT64 FmaSupport : 1;
        UINT64 MpxSupport : 1;
        UINT64 Avx512Support : 1;
        UINT64 Avx512DQSupport : 1;
        UINT64 Avx512CDSupport : 1;
        UINT64 Avx512BWSupport : 1;
        UINT64 Avx512VLSupport : 1;
        UINT64 XsaveCompSupport : 1;
        UINT64 XsaveSupervisorSupport : 1;
        UINT64 Xcr1Support : 1;
        UINT64 Avx512BitalgSupport : 1;
        UINT64 Avx512IfmaSupport : 1;
        UINT64 Avx512VBmiSupport : 1;
        UINT64 Avx512VBmi2Support : 1;
        UINT64 Avx512VnniSupport : 1;
        UINT64 GfniSupport : 1;
        UINT64 VaesSupport : 1;
        UINT64 Avx512VPopcntdqSupport : 1;
        UINT64 VpclmulqdqSupport : 1;
        UINT64 Avx512Bf16Support : 1;
        UINT64 Avx512Vp2IntersectSupport : 1;
        UINT64 Avx512Fp16Support : 1;
        UINT64 XfdSupport : 1;
        UINT64 AmxTileSupport : 1;
        UINT64 AmxBf16Support : 1;
        UINT64 AmxInt8Support : 1;
        UINT64 AvxVnniSupport : 1;
        UINT64 AvxIfmaSupport : 1;
        UINT64 AvxNeConvertSupport : 1;
        UINT64 AvxVnniInt8Support : 1;
        UINT64 AvxVnniInt16Support : 1;
        UINT64 Avx10_1_256Support : 1;
        UINT64 Avx10_1_512Support : 1;
        UINT64 AmxFp16Support : 1;
        UINT64 Reserved : 26;
    };
    UINT64 AsUINT64;
} WHV_PROCESSOR_XSAVE_FEATURES, *PWHV_PROCESSOR_XSAVE_FEATURES;
C_ASSERT(sizeof(WHV_PROCESSOR_XSAVE_FEATURES) == 8);

/* Performance monitoring. */
typedef union WHV_PROCESSOR_PERFMON_FEATURES {
    struct {
        UINT64 PmuSupport : 1; /* performance counters */
        UINT64 LbrSupport : 1; /* last branch records */
        UINT64 Reserved : 62;
    };
    UINT64 AsUINT64;
} WHV_PROCESSOR_PERFMON_FEATURES, *PWHV_PROCESSOR_PERFMON_FEATURES;
C_ASSERT(sizeof(WHV_PROCESSOR_PERFMON_FEATURES) == 8);

/* Accesses to model-specific registers that exit, given X64MsrExit. */
typedef union WHV_X64_MSR_EXIT_BITMAP {
    UINT64 AsUINT64;
    struct {
        UINT64 UnhandledMsrs : 1; /* every register that would otherwise raise #GP */
        UINT64 TscMsrWrite : 1;
        UINT64 TscMsrRead : 1;
        UINT64 ApicBaseMsrWrite : 1;
        UINT64 MiscEnableMsrRead : 1;
        UINT64 McUpdatePatchLevelMsrRead : 1;
        UINT64 Reserved : 58;
    };
} WHV_X64_MSR_EXIT_BITMAP;
C_ASSERT(sizeof(WHV_X64_MSR_EXIT_BITMAP) == 8);

/* How WHvAdviseGpaRange brings memory in. */
typedef union WHV_ADVISE_GPA_RANGE_POPULATE_FLAGS {
    UINT32 AsUINT32;
    struct {
        UINT32 Prefetch : 1; /* ahead of need */
        UINT32 AvoidHardFaults : 1; /* only what needs no reading from a disk */
        UINT32 Reserved : 30;
    };
} WHV_ADVISE_GPA_RANGE_POPULATE_FLAGS;
C_ASSERT(sizeof(WHV_ADVISE_GPA_RANGE_POPULATE_FLAGS) == 4);

/* Whether, and in which range, the frequency of the processors can be capped. */
typedef struct WHV_CAPABILITY_PROCESSOR_FREQUENCY_CAP {
    UINT32 IsSupported : 1;
    UINT32 Reserved : 31;
    UINT32 HighestFrequencyMhz;
    UINT32 NominalFrequencyMhz;
    UINT32 LowestFrequencyMhz;
    UINT32 FrequencyStepMhz;
} WHV_CAPABILITY_PROCESSOR_FREQUENCY_CAP;
C_ASSERT(sizeof(WHV_CAPABILITY_PROCESSOR_FREQUENCY_CAP) == 20);

/* Which of the scheduling properties work. */
typedef union WHV_SCHEDULER_FEATURES {
    struct {
        UINT64 CpuReserve : 1;
        UINT64 CpuCap : 1;
        UINT64 CpuWeight : 1;
        UINT64 CpuGroupId : 1;
        UINT64 DisableSmt : 1;
        UINT64 Reserved : 59;
    };
    UINT64 AsUINT64;
} WHV_SCHEDULER_FEATURES;
C_ASSERT(sizeof(WHV_SCHEDULER_FEATURES) == 8);

/* The answer to WHvGetCapability. The size written is that of the member, not of the union. */
typedef union WHV_CAPABILITY {
    BOOL HypervisorPresent;
    WHV_CAPABILITY_FEATURES Features;
    WHV_EXTENDED_VM_EXITS ExtendedVmExits;
    WHV_PROCESSOR_VENDOR ProcessorVendor;
    WHV_PROCESSOR_FEATURES ProcessorFeatures;
    WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS SyntheticProcessorFeaturesBanks;
    UINT8 ProcessorClFlushSize;
    UINT64 ProcessorClockFrequency;
    WHV_PROCESSOR_FEATURES_BANKS ProcessorFeaturesBanks;
    WHV_ADVISE_GPA_RANGE_POPULATE_FLAGS GpaRangePopulateFlags;
    WHV_CAPABILITY_PROCESSOR_FREQUENCY_CAP ProcessorFrequencyCap;
    WHV_SCHEDULER_FEATURES SchedulerFeatures;
    UINT32 PhysicalAddressWidth;
    UINT64 NestedFeatureRegister;
    WHV_PROCESSOR_XSAVE_FEATURES ProcessorXsaveFeatures;
    UINT64 InterruptClockFrequency;
    WHV_PROCESSOR_PERFMON_FEATURES ProcessorPerfmonFeatures;
    WHV_X64_MSR_EXIT_BITMAP X64MsrExitBitmap;
    UINT64 ExceptionExitBitmap;
} WHV_CAPABILITY;

/* ---- Properties of a partition ------------------------------------------------------------------------- */

/* The properties of a partition, with the member of WHV_PARTITION_PROPERTY that carries each. Except for
 * the
 * four that WHvSetPartitionProperty names, a property is fixed at set-up. */
typedef enum WHV_PARTITION_PROPERTY_CODE {
    /* What exits, and how the partition is scheduled. */
    WHvPartitionPropertyCodeExtendedVmExits = 0x00000001,
    WHvPartitionPropertyCodeExceptionExitBitmap = 0x00000002, /* bit N: exception vector N exits */
    WHvPartitionPropertyCodeSeparateSecurityDomain = 0x00000003, /* share no core with other partitions */
    WHvPartitionPropertyCodeNestedVirtualization = 0x00000004,
    WHvPartitionPropertyCodeX64MsrExitBitmap = 0x00000005,
    WHvPartitionPropertyCodePrimaryNumaNode = 0x00000006,
    WHvPartitionPropertyCodeCpuReserve = 0x00000007,
    WHvPartitionPropertyCodeCpuCap = 0x00000008,
    WHvPartitionPropertyCodeCpuWeight = 0x00000009, /* relative to other partitions */
    WHvPartitionPropertyCodeCpuGroupId = 0x0000000A,
    WHvPartitionPropertyCodeProcessorFrequencyCap = 0x0000000B, /* in MHz, 0 for none */
    WHvPartitionPropertyCodeAllowDeviceAssignment = 0x0000000C,
    WHvPartitionPropertyCodeDisableSmt = 0x0000000D,

    /* What the processors are. */
    WHvPartitionPropertyCodeProcessorFeatures = 0x00001001,
    WHvPartitionPropertyCodeProcessorClFlushSize = 0x00001002,
    WHvPartitionPropertyCodeCpuidExitList = 0x00001003, /* the leaves that exit; empty for all */
    WHvPartitionPropertyCodeCpuidResultList = 0x00001004, /* results that replace the processor's */
    WHvPartitionPropertyCodeLocalApicEmulationMode = 0x00001005,
    WHvPartitionPropertyCodeProcessorXsaveFeatures = 0x00001006,
    WHvPartitionPropertyCodeProcessorClockFrequency = 0x00001007, /* in Hz */
    WHvPartitionPropertyCodeInterruptClockFrequency = 0x00001008, /* in Hz, of the local APIC timer */
    WHvPartitionPropertyCodeApicRemoteReadSupport = 0x00001009,
    WHvPartitionPropertyCodeProcessorFeaturesBanks = 0x0000100A,
    WHvPartitionPropertyCodeReferenceTime = 0x0000100B, /* in 100 ns, since the partition first ran */
    WHvPartitionPropertyCodeSyntheticProcessorFeaturesBanks = 0x0000100C,
    WHvPartitionPropertyCodeCpuidResultList2 = 0x0000100D, /* the same by subleaf, processor and bit */
    WHvPartitionPropertyCodeProcessorPerfmonFeatures = 0x0000100E,
    WHvPartitionPropertyCodeMsrActionList = 0x0000100F,
    WHvPartitionPropertyCodeUnimplementedMsrAction = 0x00001010,
    WHvPartitionPropertyCodePhysicalAddressWidth = 0x00001011, /* in bits */
    WHvPartitionPropertyCodeProcessorCount = 0x00001fff /* 1 to 64; must be set before set-up */
} WHV_PARTITION_PROPERTY_CODE;

/* The result of a CPUID leaf, for every subleaf. */
typedef struct WHV_X64_CPUID_RESULT {
    UINT32 Function; /* the leaf (EAX) */
    UINT32 Reserved[3];
    UINT32 Eax;
    UINT32 Ebx;
    UINT32 Ecx;
    UINT32 Edx;
} WHV_X64_CPUID_RESULT;
C_ASSERT(sizeof(WHV_X64_CPUID_RESULT) == 32);

/* Which conditions of a WHV_X64_CPUID_RESULT2 count. */
typedef enum WHV_X64_CPUID_RESULT2_FLAGS {
    WHvX64CpuidResult2FlagSubleafSpecific = 0x00000001, /* only for the subleaf Index */
    WHvX64CpuidResult2FlagVpSpecific = 0x00000002 /* only for the processor VpIndex */
} WHV_X64_CPUID_RESULT2_FLAGS;
DEFINE_ENUM_FLAG_OPERATORS(WHV_X64_CPUID_RESULT2_FLAGS)

/* The four registers that CPUID writes. */
typedef struct WHV_CPUID_OUTPUT {
    UINT32 Eax;
    UINT32 Ebx;
    UINT32 Ecx;
    UINT32 Edx;
} WHV_CPUID_OUTPUT;
C_ASSERT(sizeof(WHV_CPUID_OUTPUT) == 16);

/* The result of a CPUID leaf: where Mask has a 1, the bit is taken from Output, elsewhere from the
 * processor. */
typedef struct WHV_X64_CPUID_RESULT2 {
    UINT32 Function; /* the leaf (EAX) */
    UINT32 Index; /* the subleaf (ECX) */
    UINT32 VpIndex;
    WHV_X64_CPUID_RESULT2_FLAGS Flags;
    WHV_CPUID_OUTPUT Output;
    WHV_CPUID_OUTPUT Mask;
} WHV_X64_CPUID_RESULT2;
C_ASSERT(sizeof(WHV_X64_CPUID_RESULT2) == 48);

/* What happens when the guest reads or writes one model-specific register. */
typedef struct WHV_MSR_ACTION_ENTRY {
    UINT32 Index; /* the number of the register (ECX) */
    UINT8 ReadAction; /* WHV_MSR_ACTION */
    UINT8 WriteAction; /* WHV_MSR_ACTION */
    UINT16 Reserved;
} WHV_MSR_ACTION_ENTRY;
C_ASSERT(sizeof(WHV_MSR_ACTION_ENTRY) == 8);

/* What happens on an access to a model-specific register. */
typedef enum WHV_MSR_ACTION {
    WHvMsrActionArchitectureDefault = 0, /* as the processor does */
    WHvMsrActionIgnoreWriteReadZero = 1,
    WHvMsrActionExit = 2 /* WHvRunVpExitReasonX64MsrAccess */
} WHV_MSR_ACTION;

/* Vectors of exceptions (SDM vol. 3A 6.3.1). */
typedef enum WHV_EXCEPTION_TYPE {
    WHvX64ExceptionTypeDivideErrorFault = 0x0,
    WHvX64ExceptionTypeDebugTrapOrFault = 0x1,
    WHvX64ExceptionTypeBreakpointTrap = 0x3,
    WHvX64ExceptionTypeOverflowTrap = 0x4,
    WHvX64ExceptionTypeBoundRangeFault = 0x5,
    WHvX64ExceptionTypeInvalidOpcodeFault = 0x6,
    WHvX64ExceptionTypeDeviceNotAvailableFault = 0x7,
    WHvX64ExceptionTypeDoubleFaultAbort = 0x8,
    WHvX64ExceptionTypeInvalidTaskStateSegmentFault = 0x0A,
    WHvX64ExceptionTypeSegmentNotPresentFault = 0x0B,
    WHvX64ExceptionTypeStackFault = 0x0C,
    WHvX64ExceptionTypeGeneralProtectionFault = 0x0D,
    WHvX64ExceptionTypePageFault = 0x0E,
    WHvX64ExceptionTypeFloatingPointErrorFault = 0x10,
    WHvX64ExceptionTypeAlignmentCheckFault = 0x11,
    WHvX64ExceptionTypeMachineCheckAbort = 0x12,
    WHvX64ExceptionTypeSimdFloatingPointFault = 0x13,
    WHvX64ExceptionTypeControlProtectionFault = 0x15
} WHV_EXCEPTION_TYPE;

/* Whether the partition emulates local APICs. Without it, a halt exits and the caller injects interrupts
 * itself. */
typedef enum WHV_X64_LOCAL_APIC_EMULATION_MODE {
    WHvX64LocalApicEmulationModeNone,
    WHvX64LocalApicEmulationModeXApic,
    WHvX64LocalApicEmulationModeX2Apic
} WHV_X64_LOCAL_APIC_EMULATION_MODE;

/* The value of a property. The lists have as many entries as the size of the buffer says. */
typedef union WHV_PARTITION_PROPERTY {
    WHV_EXTENDED_VM_EXITS ExtendedVmExits;
    WHV_PROCESSOR_FEATURES ProcessorFeatures;
    WHV_SYNTHETIC_PROCESSOR_FEATURES_BANKS SyntheticProcessorFeaturesBanks;
    UINT8 ProcessorClFlushSize;
    UINT32 ProcessorCount;
    BOOL SeparateSecurityDomain;
    BOOL NestedVirtualization;
    UINT64 ProcessorClockFrequency;
    WHV_PROCESSOR_FEATURES_BANKS ProcessorFeaturesBanks;
    UINT64 ReferenceTime;
    USHORT PrimaryNumaNode;
    UINT32 CpuReserve;
    UINT32 CpuCap;
    UINT32 CpuWeight;
    UINT64 CpuGroupId;
    UINT32 ProcessorFrequencyCap;
    BOOL AllowDeviceAssignment;
    BOOL DisableSmt;
    UINT32 PhysicalAddressWidth;
    WHV_PROCESSOR_XSAVE_FEATURES ProcessorXsaveFeatures;
    UINT32 CpuidExitList[1];
    UINT64 ExceptionExitBitmap;
    BOOL ApicRemoteRead;
    WHV_X64_MSR_EXIT_BITMAP X64MsrExitBitmap;
    WHV_PROCESSOR_PERFMON_FEATURES ProcessorPerfmonFeatures;
    UINT64 InterruptClockFrequency;
    WHV_X64_CPUID_RESULT CpuidResultList[1];
    WHV_X64_CPUID_RESULT2 CpuidResultList2[1];
    WHV_MSR_ACTION_ENTRY MsrActionList[1];
    WHV_MSR_ACTION UnimplementedMsrAction;
    WHV_X64_LOCAL_APIC_EMULATION_MODE LocalApicEmulationMode;
} WHV_PARTITION_PROPERTY;

/* ---- Virtual trust levels ------------------------------------------------------------------------------ */

/* How a virtual trust level is enabled for a partition (TLFS 15). */
typedef union WHV_ENABLE_PARTITION_VTL_FLAGS {
    UINT8 AsUINT8;
    struct {
        UINT8 EnableMbec : 1;
        UINT8 EnableSupervisorShadowStack : 1;
        UINT8 EnableHardwareHvpt : 1;
        UINT8 Reserved : 5;
    };
} WHV_ENABLE_PARTITION_VTL_FLAGS;

/* How a virtual trust level is disabled for a partition. */
typedef union WHV_DISABLE_PARTITION_VTL_FLAGS {
    UINT8 AsUINT8;
    struct {
        UINT8 ScrubOnly : 1;
        UINT8 Reserved : 7;
    };
} WHV_DISABLE_PARTITION_VTL_FLAGS;

/* The registers that a processor starts a virtual trust level with (TLFS 15). */
typedef struct WHV_INITIAL_VP_CONTEXT {
    UINT64 Rip;
    UINT64 Rsp;
    UINT64 Rflags;
    WHV_X64_SEGMENT_REGISTER Cs;
    WHV_X64_SEGMENT_REGISTER Ds;
    WHV_X64_SEGMENT_REGISTER Es;
    WHV_X64_SEGMENT_REGISTER Fs;
    WHV_X64_SEGMENT_REGISTER Gs;
    WHV_X64_SEGMENT_REGISTER Ss;
    WHV_X64_SEGMENT_REGISTER Tr;
    WHV_X64_SEGMENT_REGISTER Ldtr;
    WHV_X64_TABLE_REGISTER Idtr;
    WHV_X64_TABLE_REGISTER Gdtr;
    UINT64 Efer;
    UINT64 Cr0;
    UINT64 Cr3;
    UINT64 Cr4;
    UINT64 MsrCrPat; /* the PAT register */
} WHV_INITIAL_VP_CONTEXT;
C_ASSERT(sizeof(WHV_INITIAL_VP_CONTEXT) == 224);

/* How a virtual trust level is disabled for a processor. */
typedef union WHV_DISABLE_VP_VTL_FLAGS {
    UINT8 AsUINT8;
    struct {
        UINT8 ScrubOnly : 1;
        UINT8 Reserved : 7;
    };
} WHV_DISABLE_VP_VTL_FLAGS;

/* What each higher virtual trust level permits the lower ones. */
typedef union WHV_VTL_PERMISSION_SET {
    UINT32 AsUINT32;
    struct {
        UINT16 VtlPermissionFrom1[2];
    };
} WHV_VTL_PERMISSION_SET;
C_ASSERT(sizeof(WHV_VTL_PERMISSION_SET) == 4);

/* ---- Guest memory -------------------------------------------------------------------------------------- */

/* What the guest may do with a mapped range, and whether writes are recorded. A forbidden access exits. */
typedef enum WHV_MAP_GPA_RANGE_FLAGS {
    WHvMapGpaRangeFlagNone = 0x00000000,
    WHvMapGpaRangeFlagRead = 0x00000001,
    WHvMapGpaRangeFlagWrite = 0x00000002,
    WHvMapGpaRangeFlagExecute = 0x00000004,
    WHvMapGpaRangeFlagTrackDirtyPages = 0x00000008
} WHV_MAP_GPA_RANGE_FLAGS;
DEFINE_ENUM_FLAG_OPERATORS(WHV_MAP_GPA_RANGE_FLAGS)

/* How WHvTranslateGva translates. */
typedef enum WHV_TRANSLATE_GVA_FLAGS {
    WHvTranslateGvaFlagNone = 0x00000000,
    WHvTranslateGvaFlagValidateRead = 0x00000001, /* fail where the processor could not read */
    WHvTranslateGvaFlagValidateWrite = 0x00000002,
    WHvTranslateGvaFlagValidateExecute = 0x00000004,
    WHvTranslateGvaFlagPrivilegeExempt = 0x00000008, /* as if at privilege level 0 */
    WHvTranslateGvaFlagSetPageTableBits = 0x00000010, /* set accessed and dirty bits as the access would */
    /* check supervisor access to user pages whatever RFLAGS.AC says */
    WHvTranslateGvaFlagEnforceSmap = 0x00000100,
    WHvTranslateGvaFlagOverrideSmap = 0x00000200 /* do not check it */
} WHV_TRANSLATE_GVA_FLAGS;
DEFINE_ENUM_FLAG_OPERATORS(WHV_TRANSLATE_GVA_FLAGS)

/* WHV_TRANSLATE_GVA_FLAGS with a virtual trust level. */
typedef union WHV_TRANSLATE_GVA_2_FLAGS {
    struct {
        UINT64 ValidateRead : 1;
        UINT64 ValidateWrite : 1;
        UINT64 ValidateExecute : 1;
        UINT64 PrivilegeExempt : 1;
        UINT64 SetPageTableBits : 1;
        UINT64 Reserved1 : 3;
        UINT64 EnforceSmap : 1;
        UINT64 OverrideSmap : 1;
        UINT64 Reserved4 : 46;
        UINT64 InputVtl : 8; /* WHV_INPUT_VTL */
    };
    UINT64 AsUINT64;
} WHV_TRANSLATE_GVA_2_FLAGS;
C_ASSERT(sizeof(WHV_TRANSLATE_GVA_2_FLAGS) == 8);

/* How a translation ended. */
typedef enum WHV_TRANSLATE_GVA_RESULT_CODE {
    WHvTranslateGvaResultSuccess = 0,
    WHvTranslateGvaResultPageNotPresent = 1,
    WHvTranslateGvaResultPrivilegeViolation = 2,
    WHvTranslateGvaResultInvalidPageTableFlags = 3, /* a reserved bit is set in an entry */
    WHvTranslateGvaResultGpaUnmapped = 4, /* the page, or one of the tables, is not mapped */
    WHvTranslateGvaResultGpaNoReadAccess = 5,
    WHvTranslateGvaResultGpaNoWriteAccess = 6,
    WHvTranslateGvaResultGpaIllegalOverlayAccess = 7,
    WHvTranslateGvaResultIntercept = 8
} WHV_TRANSLATE_GVA_RESULT_CODE;

/* The result of WHvTranslateGva. */
typedef struct WHV_TRANSLATE_GVA_RESULT {
    WHV_TRANSLATE_GVA_RESULT_CODE ResultCode;
    UINT32 Reserved;
} WHV_TRANSLATE_GVA_RESULT;
C_ASSERT(sizeof(WHV_TRANSLATE_GVA_RESULT) == 8);

/* A range of guest physical memory. */
typedef struct WHV_MEMORY_RANGE_ENTRY {
    UINT64 GuestAddress;
    UINT64 SizeInBytes;
} WHV_MEMORY_RANGE_ENTRY;
C_ASSERT(sizeof(WHV_MEMORY_RANGE_ENTRY) == 16);

/* What the guest did, or wanted to do. */
typedef enum WHV_MEMORY_ACCESS_TYPE {
    WHvMemoryAccessRead = 0,
    WHvMemoryAccessWrite = 1,
    WHvMemoryAccessExecute = 2
} WHV_MEMORY_ACCESS_TYPE;

/* What WHvAdviseGpaRange advises. */
typedef enum WHV_ADVISE_GPA_RANGE_CODE {
    WHvAdviseGpaRangeCodePopulate = 0x00000000, /* bring the memory in; takes WHV_ADVISE_GPA_RANGE_POPULATE */
    WHvAdviseGpaRangeCodePin = 0x00000001, /* keep it in */
    WHvAdviseGpaRangeCodeUnpin = 0x00000002 /* end a pin */
} WHV_ADVISE_GPA_RANGE_CODE;

/* Details of WHvAdviseGpaRangeCodePopulate. */
typedef struct WHV_ADVISE_GPA_RANGE_POPULATE {
    WHV_ADVISE_GPA_RANGE_POPULATE_FLAGS Flags;
    WHV_MEMORY_ACCESS_TYPE AccessType;
} WHV_ADVISE_GPA_RANGE_POPULATE;
C_ASSERT(sizeof(WHV_ADVISE_GPA_RANGE_POPULATE) == 8);

/* The details of an advice. */
typedef union WHV_ADVISE_GPA_RANGE {
    WHV_ADVISE_GPA_RANGE_POPULATE Populate;
} WHV_ADVISE_GPA_RANGE;
C_ASSERT(sizeof(WHV_ADVISE_GPA_RANGE) == 8);

/* Memory types, with the numbers of the PAT and the MTRRs (SDM vol. 3A 12.12). */
typedef enum WHV_CACHE_TYPE {
    WHvCacheTypeUncached = 0,
    WHvCacheTypeWriteCombining = 1,
    WHvCacheTypeWriteThrough = 4,
    WHvCacheTypeWriteProtected = 5,
    WHvCacheTypeWriteBack = 6
} WHV_CACHE_TYPE;

/* How WHvReadGpaRange and WHvWriteGpaRange access memory. */
typedef union WHV_ACCESS_GPA_CONTROLS {
    UINT64 AsUINT64;
    struct {
        WHV_CACHE_TYPE CacheType;
        WHV_INPUT_VTL InputVtl;
        UINT8 Reserved;
        UINT16 Reserved1;
    };
} WHV_ACCESS_GPA_CONTROLS;
C_ASSERT(sizeof(WHV_ACCESS_GPA_CONTROLS) == 8);

/* The most bytes that one WHvReadGpaRange or WHvWriteGpaRange moves. */
#define WHV_READ_WRITE_GPA_RANGE_MAX_SIZE 16

/* ---- Exits of a virtual processor ---------------------------------------------------------------------- */

/* Why WHvRunVirtualProcessor returned, with the member of WHV_RUN_VP_EXIT_CONTEXT that says more. */
typedef enum WHV_RUN_VP_EXIT_REASON {
    /* Always possible. */
    WHvRunVpExitReasonNone = 0x00000000,
    WHvRunVpExitReasonMemoryAccess = 0x00000001, /* MemoryAccess */
    WHvRunVpExitReasonX64IoPortAccess = 0x00000002, /* IoPortAccess */
    WHvRunVpExitReasonUnrecoverableException = 0x00000004, /* a triple fault */
    WHvRunVpExitReasonInvalidVpRegisterValue = 0x00000005, /* the registers do not make a lawful processor */
    WHvRunVpExitReasonUnsupportedFeature = 0x00000006, /* UnsupportedFeature */
    WHvRunVpExitReasonX64InterruptWindow = 0x00000007, /* InterruptWindow */
    WHvRunVpExitReasonX64Halt = 0x00000008, /* without APIC emulation; RIP is past the HLT */
    WHvRunVpExitReasonX64ApicEoi = 0x00000009, /* ApicEoi */
    WHvRunVpExitReasonSynicSintDeliverable = 0x0000000A, /* SynicSintDeliverable */

    /* Asked for in WHV_EXTENDED_VM_EXITS. */
    WHvRunVpExitReasonX64MsrAccess = 0x00001000, /* MsrAccess */
    WHvRunVpExitReasonX64Cpuid = 0x00001001, /* CpuidAccess */
    WHvRunVpExitReasonException = 0x00001002, /* VpException */
    WHvRunVpExitReasonX64Rdtsc = 0x00001003, /* ReadTsc */
    WHvRunVpExitReasonX64ApicSmiTrap = 0x00001004, /* ApicSmi */
    WHvRunVpExitReasonHypercall = 0x00001005, /* Hypercall */
    WHvRunVpExitReasonX64ApicInitSipiTrap = 0x00001006, /* ApicInitSipi */
    WHvRunVpExitReasonX64ApicWriteTrap = 0x00001007, /* ApicWrite */

    /* By the host. */
    WHvRunVpExitReasonCanceled = 0x00002001 /* CancelReason */
} WHV_RUN_VP_EXIT_REASON;

/* The state of the processor at an exit, in brief. */
typedef union WHV_X64_VP_EXECUTION_STATE {
    struct {
        UINT16 Cpl : 2;
        UINT16 Cr0Pe : 1;
        UINT16 Cr0Am : 1;
        UINT16 EferLma : 1;
        UINT16 DebugActive : 1; /* a breakpoint is enabled in DR7 */
        UINT16 InterruptionPending : 1; /* an event was being delivered; the next run delivers it again */
        UINT16 Reserved0 : 5;
        UINT16 InterruptShadow : 1;
        UINT16 Reserved1 : 3;
    };
    UINT16 AsUINT16;
} WHV_X64_VP_EXECUTION_STATE;
C_ASSERT(sizeof(WHV_X64_VP_EXECUTION_STATE) == 2);

/* What every exit tells about the processor. */
typedef struct WHV_X64_VP_EXIT_CONTEXT {
    WHV_X64_VP_EXECUTION_STATE ExecutionState;
    UINT8 InstructionLength : 4; /* of the instruction that exited, where the exit knows it; otherwise 0 */
    UINT8 Cr8 : 4; /* the task priority class */
    UINT8 Reserved;
    UINT32 Reserved2;
    WHV_X64_SEGMENT_REGISTER Cs;
    UINT64 Rip;
    UINT64 Rflags;
} WHV_X64_VP_EXIT_CONTEXT, WHV_VP_EXIT_CONTEXT;
C_ASSERT(sizeof(WHV_X64_VP_EXIT_CONTEXT) == 40);

/* The access that exited. */
typedef union WHV_MEMORY_ACCESS_INFO {
    struct {
        UINT32 AccessType : 2; /* WHV_MEMORY_ACCESS_TYPE */
        UINT32 GpaUnmapped : 1; /* 1: nothing is mapped there; 0: the mapping forbids it */
        UINT32 GvaValid : 1; /* the context's Gva is known */
        UINT32 Reserved : 28;
    };
    UINT32 AsUINT32;
} WHV_MEMORY_ACCESS_INFO;
C_ASSERT(sizeof(WHV_MEMORY_ACCESS_INFO) == 4);

/* An access to memory that is not mapped, or not for this. RIP is on the instruction. */
typedef struct WHV_MEMORY_ACCESS_CONTEXT {
    UINT8 InstructionByteCount; /* how many of InstructionBytes are valid, 0 to 16 */
    UINT8 Reserved[3];
    UINT8 InstructionBytes[16];
    WHV_MEMORY_ACCESS_INFO AccessInfo;
    WHV_GUEST_PHYSICAL_ADDRESS Gpa;
    WHV_GUEST_VIRTUAL_ADDRESS Gva;
} WHV_MEMORY_ACCESS_CONTEXT;
C_ASSERT(sizeof(WHV_MEMORY_ACCESS_CONTEXT) == 40);

/* The port access that exited. */
typedef union WHV_X64_IO_PORT_ACCESS_INFO {
    struct {
        UINT32 IsWrite : 1;
        UINT32 AccessSize : 3; /* 1, 2 or 4 */
        UINT32 StringOp : 1; /* INS or OUTS */
        UINT32 RepPrefix : 1;
        UINT32 Reserved : 26;
    };
    UINT32 AsUINT32;
} WHV_X64_IO_PORT_ACCESS_INFO;
C_ASSERT(sizeof(WHV_X64_IO_PORT_ACCESS_INFO) == 4);

/* An IN, OUT, INS or OUTS that was not executed: RIP is on it, InstructionLength is valid, and the caller
 * completes it by setting RAX (for IN) and RIP. A REP instruction exits once. */
typedef struct WHV_X64_IO_PORT_ACCESS_CONTEXT {
    UINT8 InstructionByteCount; /* how many of InstructionBytes are valid, 0 to 16 */
    UINT8 Reserved[3];
    UINT8 InstructionBytes[16];
    WHV_X64_IO_PORT_ACCESS_INFO AccessInfo;
    UINT16 PortNumber;
    UINT16 Reserved2[3];
    UINT64 Rax;
    UINT64 Rcx;
    UINT64 Rsi;
    UINT64 Rdi;
    WHV_X64_SEGMENT_REGISTER Ds;
    WHV_X64_SEGMENT_REGISTER Es;
} WHV_X64_IO_PORT_ACCESS_CONTEXT;
C_ASSERT(sizeof(WHV_X64_IO_PORT_ACCESS_CONTEXT) == 96);

/* The access to a model-specific register that exited. */
typedef union WHV_X64_MSR_ACCESS_INFO {
    struct {
        UINT32 IsWrite : 1;
        UINT32 Reserved : 31;
    };
    UINT32 AsUINT32;
} WHV_X64_MSR_ACCESS_INFO;
C_ASSERT(sizeof(WHV_X64_MSR_ACCESS_INFO) == 4);

/* An RDMSR or WRMSR that was not executed; RIP is on it. */
typedef struct WHV_X64_MSR_ACCESS_CONTEXT {
    WHV_X64_MSR_ACCESS_INFO AccessInfo;
    UINT32 MsrNumber;
    UINT64 Rax;
    UINT64 Rdx;
} WHV_X64_MSR_ACCESS_CONTEXT;
C_ASSERT(sizeof(WHV_X64_MSR_ACCESS_CONTEXT) == 24);

/* A CPUID that was not executed; RIP is on it. */
typedef struct WHV_X64_CPUID_ACCESS_CONTEXT {
    UINT64 Rax; /* the leaf */
    UINT64 Rcx; /* the subleaf */
    UINT64 Rdx;
    UINT64 Rbx;
    UINT64 DefaultResultRax; /* what the guest would have got, as for the next three */
    UINT64 DefaultResultRcx;
    UINT64 DefaultResultRdx;
    UINT64 DefaultResultRbx;
} WHV_X64_CPUID_ACCESS_CONTEXT;
C_ASSERT(sizeof(WHV_X64_CPUID_ACCESS_CONTEXT) == 64);

/* The exception that exited. */
typedef union WHV_VP_EXCEPTION_INFO {
    struct {
        UINT32 ErrorCodeValid : 1;
        UINT32 SoftwareException : 1; /* raised by INT3, INTO or INT1 */
        UINT32 Reserved : 30;
    };
    UINT32 AsUINT32;
} WHV_VP_EXCEPTION_INFO;
C_ASSERT(sizeof(WHV_VP_EXCEPTION_INFO) == 4);

/* An exception of the guest, before its delivery; RIP is on the instruction. */
typedef struct WHV_VP_EXCEPTION_CONTEXT {
    UINT8 InstructionByteCount; /* how many of InstructionBytes are valid, 0 to 16 */
    UINT8 Reserved[3];
    UINT8 InstructionBytes[16];
    WHV_VP_EXCEPTION_INFO ExceptionInfo;
    UINT8 ExceptionType; /* WHV_EXCEPTION_TYPE */
    UINT8 Reserved2[3];
    UINT32 ErrorCode;
    UINT64 ExceptionParameter; /* the address for #PF; the bits for DR6 for #DB */
} WHV_VP_EXCEPTION_CONTEXT;
C_ASSERT(sizeof(WHV_VP_EXCEPTION_CONTEXT) == 40);

/* What the guest did that cannot be carried out. */
typedef enum WHV_X64_UNSUPPORTED_FEATURE_CODE {
    WHvUnsupportedFeatureIntercept = 1,
    WHvUnsupportedFeatureTaskSwitchTss = 2 /* a task switch through a TSS */
} WHV_X64_UNSUPPORTED_FEATURE_CODE;

/* Something that the guest did and that cannot be carried out. */
typedef struct WHV_X64_UNSUPPORTED_FEATURE_CONTEXT {
    WHV_X64_UNSUPPORTED_FEATURE_CODE FeatureCode;
    UINT32 Reserved;
    UINT64 FeatureParameter;
} WHV_X64_UNSUPPORTED_FEATURE_CONTEXT;
C_ASSERT(sizeof(WHV_X64_UNSUPPORTED_FEATURE_CONTEXT) == 16);

/* Who cancelled a run. */
typedef enum WHV_RUN_VP_CANCEL_REASON {
    WHvRunVpCancelReasonUser = 0 /* WHvCancelRunVirtualProcessor */
} WHV_RUN_VP_CANCEL_REASON;
/* An earlier spelling of the same enumerator. */
#define WhvRunVpCancelReasonUser WHvRunVpCancelReasonUser

/* A run that was cancelled. */
typedef struct WHV_RUN_VP_CANCELED_CONTEXT {
    WHV_RUN_VP_CANCEL_REASON CancelReason;
} WHV_RUN_VP_CANCELED_CONTEXT;
C_ASSERT(sizeof(WHV_RUN_VP_CANCELED_CONTEXT) == 4);

/* The guest can now take the kind of event that was asked for in the deliverability notifications. */
typedef struct WHV_X64_INTERRUPTION_DELIVERABLE_CONTEXT {
    WHV_X64_PENDING_INTERRUPTION_TYPE DeliverableType;
} WHV_X64_INTERRUPTION_DELIVERABLE_CONTEXT, *PWHV_X64_INTERRUPTION_DELIVERABLE_CONTEXT;
C_ASSERT(sizeof(WHV_X64_INTERRUPTION_DELIVERABLE_CONTEXT) == 4);

/* The guest has ended a level-triggered interrupt, as an I/O APIC must know. */
typedef struct WHV_X64_APIC_EOI_CONTEXT {
    UINT32 InterruptVector;
} WHV_X64_APIC_EOI_CONTEXT;
C_ASSERT(sizeof(WHV_X64_APIC_EOI_CONTEXT) == 4);

/* The instruction that exited. */
typedef union WHV_X64_RDTSC_INFO {
    struct {
        UINT64 IsRdtscp : 1;
        UINT64 Reserved : 63;
    };
    UINT64 AsUINT64;
} WHV_X64_RDTSC_INFO;
C_ASSERT(sizeof(WHV_X64_RDTSC_INFO) == 8);

/* An RDTSC or RDTSCP that was not executed, with what it would have given. */
typedef struct WHV_X64_RDTSC_CONTEXT {
    UINT64 TscAux;
    UINT64 VirtualOffset; /* is in Tsc already */
    UINT64 Tsc;
    UINT64 ReferenceTime; /* in 100 ns */
    WHV_X64_RDTSC_INFO RdtscInfo;
} WHV_X64_RDTSC_CONTEXT;
C_ASSERT(sizeof(WHV_X64_RDTSC_CONTEXT) == 40);

/* An SMI that the guest sent through its local APIC. */
typedef struct WHV_X64_APIC_SMI_CONTEXT {
    UINT64 ApicIcr; /* the interrupt command register */
} WHV_X64_APIC_SMI_CONTEXT;
C_ASSERT(sizeof(WHV_X64_APIC_SMI_CONTEXT) == 8);

/* How many XMM registers a hypercall can pass its input in (TLFS 3.7, "XMM fast hypercall input"). */
#define WHV_HYPERCALL_CONTEXT_MAX_XMM_REGISTERS 6

/* A hypercall that the platform does not handle itself (TLFS 3). */
typedef struct WHV_X64_HYPERCALL_CONTEXT {
    UINT64 Rax;
    UINT64 Rbx;
    UINT64 Rcx;
    UINT64 Rdx;
    UINT64 R8;
    UINT64 Rsi;
    UINT64 Rdi;
    UINT64 Reserved0;
    WHV_UINT128 XmmRegisters[WHV_HYPERCALL_CONTEXT_MAX_XMM_REGISTERS];
    UINT64 Reserved1[2];
} WHV_X64_HYPERCALL_CONTEXT, WHV_HYPERCALL_CONTEXT, *PWHV_HYPERCALL_CONTEXT;

/* An INIT or startup IPI that the guest sent. */
typedef struct WHV_X64_APIC_INIT_SIPI_CONTEXT {
    UINT64 ApicIcr; /* the interrupt command register */
} WHV_X64_APIC_INIT_SIPI_CONTEXT;
C_ASSERT(sizeof(WHV_X64_APIC_INIT_SIPI_CONTEXT) == 8);

/* The register of an APIC write, as its offset in the APIC's page. */
typedef enum WHV_X64_APIC_WRITE_TYPE {
    WHvX64ApicWriteTypeLdr = 0xD0,
    WHvX64ApicWriteTypeDfr = 0xE0,
    WHvX64ApicWriteTypeSvr = 0xF0,
    WHvX64ApicWriteTypeLint0 = 0x350,
    WHvX64ApicWriteTypeLint1 = 0x360
} WHV_X64_APIC_WRITE_TYPE;

/* A write to a local APIC register. It has taken effect, and RIP is past the instruction. */
typedef struct WHV_X64_APIC_WRITE_CONTEXT {
    WHV_X64_APIC_WRITE_TYPE Type;
    UINT32 Reserved;
    UINT64 WriteValue;
} WHV_X64_APIC_WRITE_CONTEXT;
C_ASSERT(sizeof(WHV_X64_APIC_WRITE_CONTEXT) == 16);

/* SINTs whose message slots have become free. */
typedef struct WHV_SYNIC_SINT_DELIVERABLE_CONTEXT {
    UINT16 DeliverableSints; /* a bit for each SINT */
    UINT16 Reserved1;
    UINT32 Reserved2;
} WHV_SYNIC_SINT_DELIVERABLE_CONTEXT;
C_ASSERT(sizeof(WHV_SYNIC_SINT_DELIVERABLE_CONTEXT) == 8);

/* What WHvRunVirtualProcessor writes: the reason, the processor, and the member that the reason names. */
typedef struct WHV_RUN_VP_EXIT_CONTEXT {
    WHV_RUN_VP_EXIT_REASON ExitReason;
    UINT32 Reserved;
    WHV_VP_EXIT_CONTEXT VpContext;
    union {
        WHV_MEMORY_ACCESS_CONTEXT MemoryAccess;
        WHV_RUN_VP_CANCELED_CONTEXT CancelReason;
        WHV_HYPERCALL_CONTEXT Hypercall;
        WHV_SYNIC_SINT_DELIVERABLE_CONTEXT SynicSintDeliverable;
        WHV_X64_IO_PORT_ACCESS_CONTEXT IoPortAccess;
        WHV_X64_MSR_ACCESS_CONTEXT MsrAccess;
        WHV_X64_CPUID_ACCESS_CONTEXT CpuidAccess;
        WHV_VP_EXCEPTION_CONTEXT VpException;
        WHV_X64_INTERRUPTION_DELIVERABLE_CONTEXT InterruptWindow;
        WHV_X64_UNSUPPORTED_FEATURE_CONTEXT UnsupportedFeature;
        WHV_X64_APIC_EOI_CONTEXT ApicEoi;
        WHV_X64_RDTSC_CONTEXT ReadTsc;
        WHV_X64_APIC_SMI_CONTEXT ApicSmi;
        WHV_X64_APIC_INIT_SIPI_CONTEXT ApicInitSipi;
        WHV_X64_APIC_WRITE_CONTEXT ApicWrite;
        UINT64 AsUINT64[22];
    };
} WHV_RUN_VP_EXIT_CONTEXT;
C_ASSERT(sizeof(WHV_RUN_VP_EXIT_CONTEXT) == 224);

/* ---- Interrupts and doorbells -------------------------------------------------------------------------- */

/* Delivery modes (SDM vol. 3A 11.6.1), and the pin LINT1 of every local APIC. */
typedef enum WHV_INTERRUPT_TYPE {
    WHvX64InterruptTypeFixed = 0,
    WHvX64InterruptTypeLowestPriority = 1,
    WHvX64InterruptTypeNmi = 4,
    WHvX64InterruptTypeInit = 5,
    WHvX64InterruptTypeSipi = 6,
    WHvX64InterruptTypeLocalInt1 = 9
} WHV_INTERRUPT_TYPE;

/* How a destination names processors (SDM vol. 3A 11.6.2). */
typedef enum WHV_INTERRUPT_DESTINATION_MODE {
    WHvX64InterruptDestinationModePhysical,
    WHvX64InterruptDestinationModeLogical
} WHV_INTERRUPT_DESTINATION_MODE;

/* How an interrupt is triggered. */
typedef enum WHV_INTERRUPT_TRIGGER_MODE {
    WHvX64InterruptTriggerModeEdge,
    WHvX64InterruptTriggerModeLevel
} WHV_INTERRUPT_TRIGGER_MODE;

/* An interrupt to be sent to local APICs. */
typedef struct WHV_INTERRUPT_CONTROL {
    UINT64 Type : 8; /* WHV_INTERRUPT_TYPE */
    UINT64 DestinationMode : 4; /* WHV_INTERRUPT_DESTINATION_MODE */
    UINT64 TriggerMode : 4; /* WHV_INTERRUPT_TRIGGER_MODE */
    UINT64 TargetVtl : 8;
    UINT64 Reserved : 40;
    UINT32 Destination; /* an APIC id, or a logical destination; all ones for every processor */
    UINT32 Vector; /* 16 to 255 where the type has a vector */
} WHV_INTERRUPT_CONTROL;
C_ASSERT(sizeof(WHV_INTERRUPT_CONTROL) == 16);

/* The write that rings a doorbell. */
typedef struct WHV_DOORBELL_MATCH_DATA {
    WHV_GUEST_PHYSICAL_ADDRESS GuestAddress;
    UINT64 Value; /* 0 unless MatchOnValue */
    UINT32 Length; /* 1, 2, 4 or 8 with MatchOnLength, otherwise 0 */
    UINT32 MatchOnValue : 1;
    UINT32 MatchOnLength : 1;
    UINT32 Reserved : 30;
} WHV_DOORBELL_MATCH_DATA;
C_ASSERT(sizeof(WHV_DOORBELL_MATCH_DATA) == 24);

/* ---- Counters ------------------------------------------------------------------------------------------ */

/* The sets of counters of a partition. */
typedef enum WHV_PARTITION_COUNTER_SET {
    WHvPartitionCounterSetMemory /* WHV_PARTITION_MEMORY_COUNTERS */
} WHV_PARTITION_COUNTER_SET;

/* How many pages of each size are mapped for the guest at present. */
typedef struct WHV_PARTITION_MEMORY_COUNTERS {
    UINT64 Mapped4KPageCount;
    UINT64 Mapped2MPageCount;
    UINT64 Mapped1GPageCount;
} WHV_PARTITION_MEMORY_COUNTERS;
C_ASSERT(sizeof(WHV_PARTITION_MEMORY_COUNTERS) == 24);

/* The sets of counters of a processor. */
typedef enum WHV_PROCESSOR_COUNTER_SET {
    WHvProcessorCounterSetRuntime = 0, /* WHV_PROCESSOR_RUNTIME_COUNTERS */
    WHvProcessorCounterSetIntercepts = 1, /* WHV_PROCESSOR_INTERCEPT_COUNTERS */
    WHvProcessorCounterSetEvents = 2, /* WHV_PROCESSOR_EVENT_COUNTERS */
    WHvProcessorCounterSetApic = 3, /* WHV_PROCESSOR_APIC_COUNTERS */
    WHvProcessorCounterSetSyntheticFeatures = 4 /* WHV_PROCESSOR_SYNTHETIC_FEATURES_COUNTERS */
} WHV_PROCESSOR_COUNTER_SET;

/* The time that a processor has run, and how much of it outside the guest. */
typedef struct WHV_PROCESSOR_RUNTIME_COUNTERS {
    UINT64 TotalRuntime100ns;
    UINT64 HypervisorRuntime100ns;
} WHV_PROCESSOR_RUNTIME_COUNTERS;
C_ASSERT(sizeof(WHV_PROCESSOR_RUNTIME_COUNTERS) == 16);

/* How often something happened, and how long it took in all. */
typedef struct WHV_PROCESSOR_INTERCEPT_COUNTER {
    UINT64 Count;
    UINT64 Time100ns;
} WHV_PROCESSOR_INTERCEPT_COUNTER;
C_ASSERT(sizeof(WHV_PROCESSOR_INTERCEPT_COUNTER) == 16);

/* What took the processor out of the guest. The reference has used both names for this type. */
typedef struct WHV_PROCESSOR_INTERCEPT_COUNTERS {
    WHV_PROCESSOR_INTERCEPT_COUNTER PageInvalidations;
    WHV_PROCESSOR_INTERCEPT_COUNTER ControlRegisterAccesses;
    WHV_PROCESSOR_INTERCEPT_COUNTER IoInstructions;
    WHV_PROCESSOR_INTERCEPT_COUNTER HaltInstructions;
    WHV_PROCESSOR_INTERCEPT_COUNTER CpuidInstructions;
    WHV_PROCESSOR_INTERCEPT_COUNTER MsrAccesses;
    WHV_PROCESSOR_INTERCEPT_COUNTER OtherIntercepts;
    WHV_PROCESSOR_INTERCEPT_COUNTER PendingInterrupts;
    WHV_PROCESSOR_INTERCEPT_COUNTER EmulatedInstructions;
    WHV_PROCESSOR_INTERCEPT_COUNTER DebugRegisterAccesses;
    WHV_PROCESSOR_INTERCEPT_COUNTER PageFaultIntercepts;
    WHV_PROCESSOR_INTERCEPT_COUNTER NestedPageFaultIntercepts;
    WHV_PROCESSOR_INTERCEPT_COUNTER Hypercalls;
    WHV_PROCESSOR_INTERCEPT_COUNTER RdpmcInstructions;
} WHV_PROCESSOR_ACTIVITY_COUNTERS, WHV_PROCESSOR_INTERCEPT_COUNTERS;
C_ASSERT(sizeof(WHV_PROCESSOR_ACTIVITY_COUNTERS) == 224);

/* What was delivered to the guest. The reference has used both names for this type. */
typedef struct WHV_PROCESSOR_EVENT_COUNTERS {
    UINT64 PageFaultCount;
    UINT64 ExceptionCount;
    UINT64 InterruptCount;
} WHV_PROCESSOR_GUEST_EVENT_COUNTERS, WHV_PROCESSOR_EVENT_COUNTERS;
C_ASSERT(sizeof(WHV_PROCESSOR_GUEST_EVENT_COUNTERS) == 24);

/* What the guest did with its local APIC. */
typedef struct WHV_PROCESSOR_APIC_COUNTERS {
    UINT64 MmioAccessCount;
    UINT64 EoiAccessCount;
    UINT64 TprAccessCount;
    UINT64 SentIpiCount;
    UINT64 SelfIpiCount;
} WHV_PROCESSOR_APIC_COUNTERS;
C_ASSERT(sizeof(WHV_PROCESSOR_APIC_COUNTERS) == 40);

/* What the guest did with the hypervisor's own features. */
typedef struct WHV_PROCESSOR_SYNTHETIC_FEATURES_COUNTERS {
    UINT64 SyntheticInterruptsCount;
    UINT64 LongSpinWaitHypercallsCount;
    UINT64 OtherHypercallsCount;
    UINT64 SyntheticInterruptHypercallsCount;
    UINT64 VirtualInterruptHypercallsCount;
    UINT64 VirtualMmuHypercallsCount;
} WHV_PROCESSOR_SYNTHETIC_FEATURES_COUNTERS;
C_ASSERT(sizeof(WHV_PROCESSOR_SYNTHETIC_FEATURES_COUNTERS) == 48);

/* ---- State of a virtual processor ---------------------------------------------------------------------- */

/* The kinds of state that WHvGetVirtualProcessorState reads. */
typedef enum WHV_VIRTUAL_PROCESSOR_STATE_TYPE {
    WHvVirtualProcessorStateTypeSynicMessagePage = 0x00000000, /* 4,096 bytes, as the guest sees them */
    WHvVirtualProcessorStateTypeSynicEventFlagPage = 0x00000001, /* 4,096 bytes, as the guest sees them */
    WHvVirtualProcessorStateTypeSynicTimerState = 0x00000002,
    /* 4,096 bytes, the APIC's register page */
    WHvVirtualProcessorStateTypeInterruptControllerState2 = 0x00001000,
    WHvVirtualProcessorStateTypeXsaveState = 0x00001001, /* compacted form */
    WHvVirtualProcessorStateTypeNestedState = 0x00001002 /* WHV_X64_NESTED_STATE */
} WHV_VIRTUAL_PROCESSOR_STATE_TYPE;

/* Whose virtualisation extension a nested state is of. */
typedef enum WHV_NESTED_STATE_TYPE {
    WHvNestedStateTypeVmx,
    WHvNestedStateTypeSvm
} WHV_NESTED_STATE_TYPE;

/* Enlightenments that a nested hypervisor has switched on (TLFS 16). */
typedef struct WHV_NESTED_ENLIGHTENMENTS_CONTROL {
    union {
        UINT32 AsUINT32;
        struct {
            UINT32 DirectHypercall : 1;
            UINT32 VirtualizationException : 1;
            UINT32 Reserved : 30;
        };
    } Features;
    union {
        UINT32 AsUINT32;
        struct {
            UINT32 InterPartitionCommunication : 1;
            UINT32 Reserved : 31;
        };
    } HypercallControls;
} WHV_NESTED_ENLIGHTENMENTS_CONTROL;

/* The state of nested VMX. */
typedef struct WHV_X64_VMX_NESTED_STATE {
    WHV_NESTED_STATE_TYPE Vendor; /* WHvNestedStateTypeVmx */
    struct {
        UINT32 GuestMode : 1;
        UINT32 Vmxon : 1;
        UINT32 CurrentVmcsValid : 1;
        UINT32 VmEntryPending : 1;
        UINT32 VmcsEnlightened : 1;
        UINT32 EnlightenedVmEntry : 1;
        UINT32 Reserved : 26;
    } Flags;
    WHV_NESTED_ENLIGHTENMENTS_CONTROL NestedEnlightenmentsControl;
    UINT64 Pdpt[4];
    UINT64 VmxonRegionGpa;
    UINT64 VmcsGpa;
    UINT64 CurrentEnlightenedVmcs;
    struct {
        UINT32 Tpr;
        UINT32 Ppr;
        UINT32 Isr[8];
        UINT32 Irr[8];
        UINT32 IcrLow;
        UINT32 IcrHigh;
    } VirtualApicRegs;
    UINT8 Reserved[3944];
    DECLSPEC_ALIGN(4096) UINT8 VmcsBytes[4096];
} WHV_X64_VMX_NESTED_STATE;
C_ASSERT(sizeof(WHV_X64_VMX_NESTED_STATE) == 8192);

/* A segment register in the layout of the VMCB (APM vol. 2 appendix B), which asks for no alignment. */
#pragma pack(push, 1)
typedef struct WHV_SVM_VMCB_SELECTOR {
    UINT16 Selector;
    UINT16 Attrib;
    UINT32 Limit;
    UINT64 Base;
} WHV_SVM_VMCB_SELECTOR;
#pragma pack(pop)
C_ASSERT(sizeof(WHV_SVM_VMCB_SELECTOR) == 16);

/* What VMRUN saves of the nested hypervisor. */
typedef struct WHV_SVM_NESTED_HOST_STATE {
    UINT64 Rip;
    UINT64 Rsp;
    UINT64 Rflags;
    UINT64 Rax;
    WHV_SVM_VMCB_SELECTOR Es;
    WHV_SVM_VMCB_SELECTOR Cs;
    WHV_SVM_VMCB_SELECTOR Ss;
    WHV_SVM_VMCB_SELECTOR Ds;
    WHV_SVM_VMCB_SELECTOR Gdtr;
    WHV_SVM_VMCB_SELECTOR Idtr;
    UINT64 Efer;
    UINT64 Cr0;
    UINT64 Cr3;
    UINT64 Cr4;
    UINT64 VirtualTpr;
    UINT64 Reserved[6];
} WHV_SVM_NESTED_HOST_STATE;

/* The state of nested SVM. */
typedef struct WHV_X64_SVM_NESTED_STATE {
    WHV_NESTED_STATE_TYPE Vendor; /* WHvNestedStateTypeSvm */
    struct {
        UINT32 GuestMode : 1;
        UINT32 VmEntryPending : 1;
        UINT32 HostSaveGpaValid : 1;
        UINT32 CurrentVmcbValid : 1;
        UINT32 Reserved : 28;
    } Flags;
    WHV_NESTED_ENLIGHTENMENTS_CONTROL NestedEnlightenmentsControl;
    UINT64 HostSaveGpa;
    UINT64 VmControlMsr;
    UINT64 VirtualTscRatioMsr;
    UINT64 VmcbGpa;
    WHV_SVM_NESTED_HOST_STATE HostState;
    UINT8 Reserved[3832];
    DECLSPEC_ALIGN(4096) UINT8 VmcbBytes[4096];
} WHV_X64_SVM_NESTED_STATE;
C_ASSERT(sizeof(WHV_X64_SVM_NESTED_STATE) == 8192);

/* The state of nested virtualisation; Vendor, which both members begin with, tells which. */
typedef union WHV_X64_NESTED_STATE {
    WHV_X64_VMX_NESTED_STATE Vmx;
    WHV_X64_SVM_NESTED_STATE Svm;
} WHV_X64_NESTED_STATE;
C_ASSERT(sizeof(WHV_X64_NESTED_STATE) == 8192);

/* The properties that WHvCreateVirtualProcessor2 takes. */
typedef enum WHV_VIRTUAL_PROCESSOR_PROPERTY_CODE {
    WHvVirtualProcessorPropertyCodeNumaNode = 0x00000000
} WHV_VIRTUAL_PROCESSOR_PROPERTY_CODE;

/* A property of a processor. */
typedef struct WHV_VIRTUAL_PROCESSOR_PROPERTY {
    WHV_VIRTUAL_PROCESSOR_PROPERTY_CODE PropertyCode;
    UINT32 Reserved;
    union {
        USHORT NumaNode;
        UINT64 Padding;
    };
} WHV_VIRTUAL_PROCESSOR_PROPERTY;
C_ASSERT(sizeof(WHV_VIRTUAL_PROCESSOR_PROPERTY) == 16);

/* ---- Synthetic interrupt controller -------------------------------------------------------------------- */

/* The event flag that WHvSignalVirtualProcessorSynicEvent sets. */
typedef struct WHV_SYNIC_EVENT_PARAMETERS {
    UINT32 VpIndex;
    UINT8 TargetSint; /* 0 to 15 */
    WHV_VTL TargetVtl;
    UINT16 FlagNumber; /* 0 to 2,047 */
} WHV_SYNIC_EVENT_PARAMETERS;
C_ASSERT(sizeof(WHV_SYNIC_EVENT_PARAMETERS) == 8);

/* The size of a message on the synthetic interrupt controller's message page (TLFS 11.8). */
#define WHV_SYNIC_MESSAGE_SIZE 256

/* ---- Virtual PCI devices ------------------------------------------------------------------------------- */

/* How a resource is allocated. */
typedef enum WHV_ALLOCATE_VPCI_RESOURCE_FLAGS {
    WHvAllocateVpciResourceFlagNone = 0x00000000,
    WHvAllocateVpciResourceFlagAllowDirectP2P = 0x00000001 /* peer-to-peer transfers past the IOMMU */
} WHV_ALLOCATE_VPCI_RESOURCE_FLAGS;
DEFINE_ENUM_FLAG_OPERATORS(WHV_ALLOCATE_VPCI_RESOURCE_FLAGS)

/* The capacity of WHV_SRIOV_RESOURCE_DESCRIPTOR.PnpInstanceId in UTF-16 code units, terminator included. */
#define WHV_MAX_DEVICE_ID_SIZE_IN_CHARS 200

/* A virtual function of a physical device. */
typedef struct WHV_SRIOV_RESOURCE_DESCRIPTOR {
    WCHAR PnpInstanceId[WHV_MAX_DEVICE_ID_SIZE_IN_CHARS];
    LUID VirtualFunctionId;
    UINT16 VirtualFunctionIndex;
    UINT16 Reserved;
} WHV_SRIOV_RESOURCE_DESCRIPTOR;
C_ASSERT(sizeof(WHV_SRIOV_RESOURCE_DESCRIPTOR) == 412);

/* What a device notifies of. */
typedef enum WHV_VPCI_DEVICE_NOTIFICATION_TYPE {
    WHvVpciDeviceNotificationUndefined = 0,
    WHvVpciDeviceNotificationMmioRemapping = 1,
    WHvVpciDeviceNotificationSurpriseRemoval = 2
} WHV_VPCI_DEVICE_NOTIFICATION_TYPE;

/* A notification of a device. */
typedef struct WHV_VPCI_DEVICE_NOTIFICATION {
    WHV_VPCI_DEVICE_NOTIFICATION_TYPE NotificationType;
    UINT32 Reserved1;
    union {
        UINT64 Reserved2;
    };
} WHV_VPCI_DEVICE_NOTIFICATION;
C_ASSERT(sizeof(WHV_VPCI_DEVICE_NOTIFICATION) == 16);

/* How a device is made. */
typedef enum WHV_CREATE_VPCI_DEVICE_FLAGS {
    WHvCreateVpciDeviceFlagNone = 0x00000000,
    WHvCreateVpciDeviceFlagPhysicallyBacked = 0x00000001, /* a physical function stands behind it */
    WHvCreateVpciDeviceFlagUseLogicalInterrupts = 0x00000002
} WHV_CREATE_VPCI_DEVICE_FLAGS;
DEFINE_ENUM_FLAG_OPERATORS(WHV_CREATE_VPCI_DEVICE_FLAGS)

/* The properties of a device. */
typedef enum WHV_VPCI_DEVICE_PROPERTY_CODE {
    WHvVpciDevicePropertyCodeUndefined = 0,
    WHvVpciDevicePropertyCodeHardwareIDs = 1, /* WHV_VPCI_HARDWARE_IDS */
    WHvVpciDevicePropertyCodeProbedBARs = 2 /* WHV_VPCI_PROBED_BARS */
} WHV_VPCI_DEVICE_PROPERTY_CODE;

/* What a device is, as its configuration header says. */
typedef struct WHV_VPCI_HARDWARE_IDS {
    UINT16 VendorID;
    UINT16 DeviceID;
    UINT8 RevisionID;
    UINT8 ProgIf;
    UINT8 SubClass;
    UINT8 BaseClass;
    UINT16 SubVendorID;
    UINT16 SubSystemID;
} WHV_VPCI_HARDWARE_IDS;
C_ASSERT(sizeof(WHV_VPCI_HARDWARE_IDS) == 12);

/* How many base address registers a type 0 configuration header has (PCI 3.0, 6.2.5.1). */
#define WHV_VPCI_TYPE0_BAR_COUNT 6

/* The base address registers as they read after all ones were written to them. */
typedef struct WHV_VPCI_PROBED_BARS {
    UINT32 Value[WHV_VPCI_TYPE0_BAR_COUNT];
} WHV_VPCI_PROBED_BARS;
C_ASSERT(sizeof(WHV_VPCI_PROBED_BARS) == 24);

/* What this process may do with a mapped range. */
typedef enum WHV_VPCI_MMIO_RANGE_FLAGS {
    WHvVpciMmioRangeFlagReadAccess = 0x00000001,
    WHvVpciMmioRangeFlagWriteAccess = 0x00000002
} WHV_VPCI_MMIO_RANGE_FLAGS;
DEFINE_ENUM_FLAG_OPERATORS(WHV_VPCI_MMIO_RANGE_FLAGS)

/* Where in a device a register is. */
typedef enum WHV_VPCI_DEVICE_REGISTER_SPACE {
    WHvVpciConfigSpace = -1,
    WHvVpciBar0 = 0,
    WHvVpciBar1 = 1,
    WHvVpciBar2 = 2,
    WHvVpciBar3 = 3,
    WHvVpciBar4 = 4,
    WHvVpciBar5 = 5
} WHV_VPCI_DEVICE_REGISTER_SPACE;

/* A part of a device's memory that is mapped into this process. */
typedef struct WHV_VPCI_MMIO_MAPPING {
    WHV_VPCI_DEVICE_REGISTER_SPACE Location;
    WHV_VPCI_MMIO_RANGE_FLAGS Flags;
    UINT64 SizeInBytes;
    UINT64 OffsetInBytes; /* from the start of the BAR */
    PVOID VirtualAddress;
} WHV_VPCI_MMIO_MAPPING;
C_ASSERT(sizeof(WHV_VPCI_MMIO_MAPPING) == 32);

/* A register of a device. */
typedef struct WHV_VPCI_DEVICE_REGISTER {
    WHV_VPCI_DEVICE_REGISTER_SPACE Location;
    UINT32 SizeInBytes;
    UINT64 OffsetInBytes;
} WHV_VPCI_DEVICE_REGISTER;
C_ASSERT(sizeof(WHV_VPCI_DEVICE_REGISTER) == 16);

/* How an interrupt is delivered. */
typedef enum WHV_VPCI_INTERRUPT_TARGET_FLAGS {
    WHvVpciInterruptTargetFlagNone = 0x00000000,
    WHvVpciInterruptTargetFlagMulticast = 0x00000001 /* to all processors of the list, not to one of them */
} WHV_VPCI_INTERRUPT_TARGET_FLAGS;
DEFINE_ENUM_FLAG_OPERATORS(WHV_VPCI_INTERRUPT_TARGET_FLAGS)

/* The target of a device's interrupt, a structure of variable size: Processors has ProcessorCount entries. */
typedef struct WHV_VPCI_INTERRUPT_TARGET {
    UINT32 Vector;
    WHV_VPCI_INTERRUPT_TARGET_FLAGS Flags;
    UINT32 ProcessorCount;
    UINT32 Processors[ANYSIZE_ARRAY];
} WHV_VPCI_INTERRUPT_TARGET;
C_ASSERT(sizeof(WHV_VPCI_INTERRUPT_TARGET) == 16);

/* ---- Triggers and notification ports ------------------------------------------------------------------- */

/* What a trigger does when its event is set. */
typedef enum WHV_TRIGGER_TYPE {
    WHvTriggerTypeInterrupt = 0, /* as WHvRequestInterrupt */
    WHvTriggerTypeSynicEvent = 1, /* as WHvSignalVirtualProcessorSynicEvent */
    WHvTriggerTypeDeviceInterrupt = 2 /* as WHvRequestVpciDeviceInterrupt */
} WHV_TRIGGER_TYPE;

/* What a trigger does, the member by the type. */
typedef struct WHV_TRIGGER_PARAMETERS {
    WHV_TRIGGER_TYPE TriggerType;
    UINT32 Reserved;
    union {
        WHV_INTERRUPT_CONTROL Interrupt;
        WHV_SYNIC_EVENT_PARAMETERS SynicEvent;
        struct {
            UINT64 LogicalDeviceId;
            UINT64 MsiAddress;
            UINT32 MsiData;
            UINT32 Reserved;
        } DeviceInterrupt;
    };
} WHV_TRIGGER_PARAMETERS;
C_ASSERT(sizeof(WHV_TRIGGER_PARAMETERS) == 32);

/* Names a trigger of a partition. */
typedef PVOID WHV_TRIGGER_HANDLE;

/* What a notification port waits for. */
typedef enum WHV_NOTIFICATION_PORT_TYPE {
    WHvNotificationPortTypeEvent = 2, /* a hypercall that signals the connection */
    WHvNotificationPortTypeDoorbell = 4 /* a write to guest memory */
} WHV_NOTIFICATION_PORT_TYPE;

/* What a notification port waits for, the member by the type. */
typedef struct WHV_NOTIFICATION_PORT_PARAMETERS {
    WHV_NOTIFICATION_PORT_TYPE NotificationPortType;
    UINT16 Reserved;
    UINT8 Reserved1;
    UINT8 ConnectionVtl;
    union {
        WHV_DOORBELL_MATCH_DATA Doorbell;
        struct {
            UINT32 ConnectionId; /* 24 bits (TLFS 11.9) */
        } Event;
    };
} WHV_NOTIFICATION_PORT_PARAMETERS;
C_ASSERT(sizeof(WHV_NOTIFICATION_PORT_PARAMETERS) == 32);

/* The properties of a notification port. */
typedef enum WHV_NOTIFICATION_PORT_PROPERTY_CODE {
    WHvNotificationPortPropertyPreferredTargetVp = 1, /* a processor index, or WHV_ANY_VP (the default) */
    WHvNotificationPortPropertyPreferredTargetDuration = 5 /* in 100 ns */
} WHV_NOTIFICATION_PORT_PROPERTY_CODE;

/* The value of a property of a notification port. */
typedef UINT64 WHV_NOTIFICATION_PORT_PROPERTY;

/* As the value of PreferredTargetVp: no preference. Elsewhere, as a processor index: every processor. */
#define WHV_ANY_VP (0xFFFFFFFF)

/* As the value of PreferredTargetDuration: without end. */
#define WHV_NOTIFICATION_PORT_PREFERRED_DURATION_MAX (0xFFFFFFFFFFFFFFFFULL)

/* Names a notification port of a partition. */
typedef PVOID WHV_NOTIFICATION_PORT_HANDLE;

#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

#endif /* _WINHVAPIDEFS_H_ */
