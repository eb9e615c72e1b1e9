; String port instructions whose memory is a device's, or not there for the guest.
        org     0x8000
%include "check.inc"
%include "long.inc"

%define DEVICE 0x10000000

main:   mov     edx, 0xffff
        mov     edi, DEVICE
        insb
        out     0xe7, al
        mov     edi, DEVICE
        mov     ecx, 2
        rep     insw
        out     0xe7, al
        mov     esi, DEVICE
        outsb
        out     0xe7, al
        mov     esi, DEVICE
        mov     ecx, 2
        rep     outsw
        out     0xe7, al
        finish
