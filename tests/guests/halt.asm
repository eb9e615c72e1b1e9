; HLT without a local APIC; the runner injects (hosts.c).
        org     0x8000
%include "check.inc"
%include "long.inc"

main:   mov     qword [interrupt_handler], .on_interrupt
        cli
        hlt
        check   [trap_count], 0
        sti
        hlt                                         ; 0x40 is injected at this exit
.after: check   [trap_count], 1
        check   [trap_vector], 0x40
        check   [trap_rip], .after
        cli
        hlt                                         ; the runner asks for an interrupt window
        nop
        nop
        check   [trap_count], 1
        sti
        nop                                         ; the window opens behind this one
.open:  nop
        check   [trap_count], 2
        check   [trap_vector], 0x41
        check   [trap_rip], .open
        finish
.on_interrupt:
        ret
