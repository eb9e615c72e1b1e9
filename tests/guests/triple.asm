; A triple fault: no IDT, so the exception, #GP for its gate and #DF all fail (SDM vol. 3A 6.15, interrupt 8).
        org     0x8000
%include "check.inc"
%include "long.inc"

main:   check   1, 1
        lidt    [.nothing]
        ud2
.nothing:
        dw      0
        dq      0
