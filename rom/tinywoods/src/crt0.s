@ crt0.s: cartridge header and start. The header has no logo bitmap (156 zero bytes): emulators do not care, a
@ console's boot ROM would refuse it. The complement check is precomputed: -(sum of 0xA0..0xBC) - 0x19.
    .section .header, "ax"
    .arm
    .global _start
_start:
    b       boot
    .space  156
    .ascii  "TINY WOODS\0\0"
    .ascii  "TWDE"
    .ascii  "PA"
    .byte   0x96, 0, 0
    .space  7
    .byte   0                       @ version
    .byte   0x9C                    @ complement check
    .space  2

boot:
    mov     r0, #0x12               @ IRQ mode
    msr     cpsr_c, r0
    ldr     sp, =0x03007FA0
    mov     r0, #0x1F               @ system mode
    msr     cpsr_c, r0
    ldr     sp, =0x03007E00

    mov     r0, #0x02000000         @ clear EWRAM
    mov     r1, #0x40000
    bl      clear
    mov     r0, #0x03000000         @ clear IWRAM below the stacks
    ldr     r1, =0x7C00
    bl      clear

    ldr     r0, =__iwram_start      @ hot code and initialised data
    ldr     r1, =__iwram_end
    ldr     r2, =__iwram_load
1:  cmp     r0, r1
    ldrlo   r3, [r2], #4
    strlo   r3, [r0], #4
    blo     1b

    ldr     r0, =irq_handler
    ldr     r1, =0x03007FFC
    str     r0, [r1]
    ldr     r0, =main
    mov     lr, pc
    bx      r0
2:  b       2b                      @ main never returns

clear:                              @ r0 from, r1 bytes (a multiple of 32)
    mov     r2, #0
    mov     r3, #0
    mov     r4, #0
    mov     r5, #0
1:  stmia   r0!, {r2-r5}
    stmia   r0!, {r2-r5}
    subs    r1, r1, #32
    bne     1b
    bx      lr

@ The one interrupt is VBlank: acknowledge it, and tell the BIOS wait (SWI 5) that it came.
    .section .iwram, "ax"
    .arm
    .global irq_handler
irq_handler:
    mov     r3, #0x04000000
    add     r3, r3, #0x200
    ldrh    r2, [r3, #2]
    strh    r2, [r3, #2]
    ldr     r1, =0x03007FF8
    ldrh    r0, [r1]
    orr     r0, r0, r2
    strh    r0, [r1]
    bx      lr
    .ltorg
