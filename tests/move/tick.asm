; tick.asm: counts in memory and prints each count as a line of 8 hexadecimal digits. Between two lines it writes to a
; few pages, so that there is something to send again. It goes on for ever, but a byte of input decides: 'p' powers off,
; 'r' asks for a reset, 'm' prints a line with an m, and from then on 8 MiB are written over and over (from 1 MiB on),
; which no connection can follow.

                org     0x7c00
                bits    16

SERIAL          equ     0x3f8
COUNT           equ     0x600
PAGES           equ     0x1000                  ; segment of 16 pages
HURRY           equ     0x604                   ; whether to write over and over

                xor     ax, ax
                mov     ds, ax
                mov     ss, ax
                mov     sp, 0x7000
                cli
                lgdt    [gdt_pointer]           ; 4 GiB for FS: unreal mode
                mov     eax, cr0
                or      al, 1
                mov     cr0, eax
                mov     bx, 8
                mov     fs, bx
                and     al, 0xfe
                mov     cr0, eax
                mov     dx, SERIAL + 1          ; the guest listens to its serial line
                mov     al, 1
                out     dx, al
                inc     dx                      ; and has FIFOs
                out     dx, al

next:           mov     dx, SERIAL + 5          ; LSR: the transmitter takes a FIFO full of bytes
full:           in      al, dx
                test    al, 0x20
                jz      full
                mov     dx, SERIAL
                mov     ebx, [COUNT]
                inc     dword [COUNT]
                mov     cx, 8
digit:          rol     ebx, 4
                mov     al, bl
                and     al, 15
                add     al, '0'
                cmp     al, '9'
                jbe     print
                add     al, 'a' - '0' - 10
print:          out     dx, al
                loop    digit
                mov     al, 10
                out     dx, al

                mov     ax, PAGES
                mov     es, ax
                xor     di, di
page:           inc     dword [es:di]
                add     di, 0x1000
                jnc     page

                cmp     byte [HURRY], 0
                je      input
                mov     edi, 0x100000
over:           inc     dword [fs:edi]
                add     edi, 0x1000
                cmp     edi, 0x900000
                jb      over

input:          mov     dx, SERIAL + 5          ; LSR: data ready
                in      al, dx
                test    al, 1
                jz      next
                mov     dx, SERIAL
                in      al, dx
                cmp     al, 'p'
                je      power_off
                cmp     al, 'r'
                je      reset
                cmp     al, 'm'
                jne     next
                mov     byte [HURRY], 1
                mov     dx, SERIAL + 5
ready:          in      al, dx
                test    al, 0x20
                jz      ready
                mov     dx, SERIAL
                mov     al, 'm'
                out     dx, al
                mov     al, 10
                out     dx, al
                jmp     next

power_off:      mov     dx, 0x604
                mov     ax, 0x2000
                out     dx, ax
                jmp     $
reset:          mov     dx, 0xcf9
                mov     al, 6
                out     dx, al
                jmp     $

gdt:            dq      0, 0x00cf93000000ffff
gdt_pointer:    dw      gdt_pointer - gdt - 1
                dd      gdt
