// The way into a case on the host's processor and out of it again.
//
// struct host_context, in host.c:
//   0 gpr[16]  128 rip  136 rflags  144 cs  152 data selector  160 fs_base  168 gs_base
//   176 host_rsp  184 host_fs_base  192 host_gs_base  200 ss  208 fx image

#define HOST_FRAME_TOP 0x35a700001000

        .text

// void host_enter(struct host_context *context): returns when host_leave is reached
        .globl  host_enter
        .type   host_enter, @function
host_enter:
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        mov     %rsp, 176(%rdi)
        rdfsbase %rax
        mov     %rax, 184(%rdi)
        rdgsbase %rax
        mov     %rax, 192(%rdi)
        fxrstor64 208(%rdi)
        mov     152(%rdi), %rax
        mov     %eax, %ds
        mov     %eax, %es
        mov     160(%rdi), %rax
        wrfsbase %rax
        mov     168(%rdi), %rax
        wrgsbase %rax
        movabs  $HOST_FRAME_TOP, %rsp   // see host.c
        pushq   200(%rdi)               // the frame that IRETQ takes: SS, RSP, RFLAGS, CS, RIP
        pushq   32(%rdi)
        pushq   136(%rdi)
        pushq   144(%rdi)
        pushq   128(%rdi)
        mov     0(%rdi), %rax
        mov     8(%rdi), %rcx
        mov     16(%rdi), %rdx
        mov     24(%rdi), %rbx
        mov     40(%rdi), %rbp
        mov     48(%rdi), %rsi
        mov     64(%rdi), %r8
        mov     72(%rdi), %r9
        mov     80(%rdi), %r10
        mov     88(%rdi), %r11
        mov     96(%rdi), %r12
        mov     104(%rdi), %r13
        mov     112(%rdi), %r14
        mov     120(%rdi), %r15
        mov     56(%rdi), %rdi
        iretq
        .size   host_enter, . - host_enter

// Where the signal handler sends the processor, with RSP = host_rsp
        .globl  host_leave
        .type   host_leave, @function
host_leave:
        cld
        fninit
        xor     %eax, %eax
        mov     %eax, %ds
        mov     %eax, %es
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret
        .size   host_leave, . - host_leave

// The signal handler. C code must not see what the case may have left: AC, its FS base. NT would make the
// next IRETQ fault.
        .globl  host_on_signal
        .type   host_on_signal, @function
host_on_signal:
        pushfq
        andq    $~0x44000, (%rsp)
        popfq
        lea     host_context(%rip), %rax
        cmpl    $0, host_inside(%rip)
        je      1f
        mov     184(%rax), %rcx
        wrfsbase %rcx
        mov     192(%rax), %rcx
        wrgsbase %rcx
1:      jmp     host_take_signal
        .size   host_on_signal, . - host_on_signal

        .section .note.GNU-stack, "", @progbits
