; String instructions between a device and memory, in 64-bit mode.
        org     0x8000
%include "check.inc"
%include "long.inc"
%include "mark.inc"

%define DEVICE 0x10000000
%define AREA 0x100000

%macro copies 3                                     ; from, to, count
        mov     esi, %1
        mov     edi, %2
        mov     ecx, %3
        rep     movsb
        mark
        mov     esi, %1 + 0x100
        mov     edi, %2 + 0x100
        mov     ecx, %3
        rep     movsw
        mark
        mov     esi, %1 + 0x200
        mov     edi, %2 + 0x200
        mov     ecx, %3
        rep     movsd
        mark
        mov     esi, %1 + 0x300
        mov     edi, %2 + 0x300
        mov     ecx, %3
        rep     movsq
        mark
        mov     esi, %1 + 0x400
        mov     edi, %2 + 0x400
        movsb
        mark
        movsw
        mark
        movsd
        mark
        movsq
        mark
%endmacro

main:   mov     rax, 0x1122334455667788
        mov     edi, AREA
        mov     ecx, 0x200
        rep     stosd
        mark
        copies  AREA, DEVICE, 5
        copies  DEVICE, AREA + 0x800, 5
        copies  DEVICE, DEVICE + 0x1000, 3
        std
        mov     esi, AREA + 0x40
        mov     edi, DEVICE + 0x40
        mov     ecx, 3
        rep     movsd
        mark
        mov     esi, DEVICE + 0x40
        mov     edi, AREA + 0x40
        mov     ecx, 3
        rep     movsw
        mark
        cld
        mark
        mov     edi, DEVICE
        stosb
        mark
        stosw
        mark
        stosd
        mark
        stosq
        mark
        mov     ecx, 5
        rep     stosb
        mark
        mov     ecx, 3
        rep     stosq
        mark
        mov     esi, DEVICE
        lodsb
        mark
        lodsw
        mark
        lodsd
        mark
        lodsq
        mark
        mov     ecx, 3
        rep     lodsb
        mark
        mov     edi, DEVICE
        mov     al, 0x77
        scasb
        mark
        mov     ecx, 6
        repne   scasb
        mark
        mov     ecx, 6
        repe    scasd
        mark
        mov     esi, AREA
        mov     edi, DEVICE
        cmpsb
        mark
        mov     ecx, 6
        repe    cmpsb
        mark
        mov     esi, DEVICE
        mov     edi, AREA
        mov     ecx, 6
        repne   cmpsw
        mark
; From memory into the device half way, and out of it
        mov     esi, AREA
        mov     edi, DEVICE - 4
        mov     ecx, 8
        rep     movsb
        mark
        mov     esi, DEVICE - 2
        mov     edi, AREA + 0x1000
        mov     ecx, 4
        rep     movsb
        mark
        mov     esi, DEVICE + 0xffe
        mov     edi, AREA + 0x1000
        mov     ecx, 3
        rep     movsw
        mark
; The upper halves are 0: the kernel has cleared them before it tells of the access
        mov     esi, AREA
        mov     edi, DEVICE
        mov     ecx, 3
        a32     rep movsd
        mark
        xor     ecx, ecx
        mov     edi, DEVICE
        rep     stosb
        mark
        finish
