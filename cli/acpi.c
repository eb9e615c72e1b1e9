/* acpi.c: building the ACPI tables. Numbers in comments are sections of the ACPI specification 6.4. */
#include "acpi.h"

#include "devices/ioapic.h"
#include "devices/pm.h"
#include "devices/reset.h"
#include "devices/rtc.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

#define PACKED __attribute__((packed))

#define LOCAL_APIC_ADDRESS 0xfee00000u

struct acpi_rsdp {
    char signature[8];
    uint8_t checksum;
    char oem[6];
    uint8_t revision;
    uint32_t rsdt;
    uint32_t length;
    uint64_t xsdt;
    uint8_t extended_checksum;
    uint8_t reserved[3];
} PACKED;

struct acpi_header {
    char signature[4];
    uint32_t length;
    uint8_t revision;
    uint8_t checksum;
    char oem[6];
    char oem_table[8];
    uint32_t oem_revision;
    char creator[4];
    uint32_t creator_revision;
} PACKED;

/* 5.2.3.2 Generic address structure; space 1 is ports. */
struct acpi_address {
    uint8_t space, width, offset, access;
    uint64_t address;
} PACKED;

/* 5.2.9, as of revision 4. */
struct acpi_fadt {
    struct acpi_header header;
    uint32_t facs;
    uint32_t dsdt;
    uint8_t reserved0;
    uint8_t profile;
    uint16_t sci;
    uint32_t smi_command;
    uint8_t acpi_enable, acpi_disable, s4bios, pstate;
    uint32_t pm1a_event, pm1b_event, pm1a_control, pm1b_control, pm2_control, pm_timer, gpe0, gpe1;
    uint8_t pm1_event_length, pm1_control_length, pm2_control_length, pm_timer_length;
    uint8_t gpe0_length, gpe1_length, gpe1_base, cstate;
    uint16_t c2_latency, c3_latency, flush_size, flush_stride;
    uint8_t duty_offset, duty_width, day_alarm, month_alarm, century;
    uint16_t boot_flags;
    uint8_t reserved1;
    uint32_t flags;
    struct acpi_address reset;
    uint8_t reset_value;
    uint8_t reserved2[3];
    uint64_t x_facs, x_dsdt;
    struct acpi_address x_pm1a_event, x_pm1b_event, x_pm1a_control, x_pm1b_control, x_pm2_control, x_pm_timer;
    struct acpi_address x_gpe0, x_gpe1;
} PACKED;
_Static_assert(sizeof(struct acpi_fadt) == 244, "5.2.9");

enum {
    BOOT_LEGACY_DEVICES = 1 << 0,
    BOOT_NO_VGA = 1 << 2,
    BOOT_NO_MSI = 1 << 3,

    FLAG_WBINVD = 1 << 0,
    FLAG_C1 = 1 << 2,
    FLAG_NO_FIXED_POWER_BUTTON = 1 << 4,
    FLAG_NO_FIXED_SLEEP_BUTTON = 1 << 5,
    FLAG_NO_FIXED_RTC_WAKE = 1 << 6,
    FLAG_TIMER_32_BIT = 1 << 8,
    FLAG_RESET_REGISTER = 1 << 10,
    FLAG_HEADLESS = 1 << 12
};

struct acpi_facs {
    char signature[4];
    uint32_t length;
    uint32_t hardware_signature;
    uint32_t waking_vector;
    uint32_t global_lock;
    uint32_t flags;
    uint64_t x_waking_vector;
    uint8_t version;
    uint8_t reserved[31];
} PACKED;
_Static_assert(sizeof(struct acpi_facs) == 64, "5.2.10");

struct acpi_madt {
    struct acpi_header header;
    uint32_t local_apic;
    uint32_t flags;
} PACKED;

struct acpi_madt_processor {
    uint8_t type, length, uid, apic_id;
    uint32_t flags;
} PACKED;

struct acpi_madt_ioapic {
    uint8_t type, length, id, reserved;
    uint32_t address, first_interrupt;
} PACKED;

struct acpi_madt_override {
    uint8_t type, length, bus, irq;
    uint32_t interrupt;
    uint16_t flags;
} PACKED;

struct acpi_madt_nmi {
    uint8_t type, length, uid;
    uint16_t flags;
    uint8_t lint;
} PACKED;

/* The DSDT's AML (chapter 20), which says:
 *
 *   Name (_S5, Package () { 0, 0, 0, 0 })
 *   Scope (_SB) {
 *       Device (COM1) {
 *           Name (_HID, EisaId ("PNP0501")) Name (_UID, 1) Name (_STA, 0x0F)
 *           Name (_CRS, ResourceTemplate () { IO (Decode16, 0x3F8, 0x3F8, 1, 8) IRQNoFlags () {4} })
 *       }
 *       Device (RTC0) {
 *           Name (_HID, EisaId ("PNP0B00"))
 *           Name (_CRS, ResourceTemplate () { IO (Decode16, 0x70, 0x70, 1, 2) IRQNoFlags () {8} })
 *       }
 *   }
 *
 * The first and second numbers of _S5 are the sleep types for the PM1 control blocks. */
static const uint8_t acpi_aml[] = {
    0x08, '_', 'S', '5', '_', 0x12, 0x06, 0x04, PM_SLEEP_TYPE_S5, PM_SLEEP_TYPE_S5, 0x00, 0x00,
    0x10, 0x41, 0x06, '_', 'S', 'B', '_',
    0x5b, 0x82, 0x32, 'C', 'O', 'M', '1',
    0x08, '_', 'H', 'I', 'D', 0x0c, 0x41, 0xd0, 0x05, 0x01,
    0x08, '_', 'U', 'I', 'D', 0x01,
    0x08, '_', 'S', 'T', 'A', 0x0a, 0x0f,
    0x08, '_', 'C', 'R', 'S', 0x11, 0x10, 0x0a, 0x0d,
    0x47, 0x01, 0xf8, 0x03, 0xf8, 0x03, 0x01, 0x08, 0x22, 0x10, 0x00, 0x79, 0x00,
    0x5b, 0x82, 0x25, 'R', 'T', 'C', '0',
    0x08, '_', 'H', 'I', 'D', 0x0c, 0x41, 0xd0, 0x0b, 0x00,
    0x08, '_', 'C', 'R', 'S', 0x11, 0x10, 0x0a, 0x0d,
    0x47, 0x01, 0x70, 0x00, 0x70, 0x00, 0x01, 0x02, 0x22, 0x00, 0x01, 0x79, 0x00,
};

/* Where the tables go, and how far they have got. */
struct acpi_area {
    uint8_t *base;
    uint64_t gpa;
    size_t size, used;
};

static void *acpi_take(struct acpi_area *area, size_t size, size_t alignment)
{
    area->used = (area->used + alignment - 1) & ~(alignment - 1);
    assert(size <= area->size - area->used);
    void *place = area->base + area->used;

    area->used += size;
    return memset(place, 0, size);
}

static uint64_t acpi_gpa(const struct acpi_area *area, const void *table)
{
    return area->gpa + (uint64_t)((const uint8_t *)table - area->base);
}

/* What makes SIZE bytes sum up to zero, given that the checksum's own byte is zero now. */
static uint8_t acpi_checksum(const void *table, size_t size)
{
    const uint8_t *bytes = table;
    uint8_t sum = 0;

    for (size_t i = 0; i < size; i++) {
        sum = (uint8_t)(sum + bytes[i]);
    }
    return (uint8_t)-sum;
}

static void acpi_finish(struct acpi_header *header, const char *signature, uint8_t revision, size_t length)
{
    memcpy(header->signature, signature, 4);
    header->length = (uint32_t)length;
    header->revision = revision;
    memcpy(header->oem, "BLKHD ", 6);
    memcpy(header->oem_table, "BULKHEAD", 8);
    header->oem_revision = 1;
    memcpy(header->creator, "BLKH", 4);
    header->creator_revision = 1;
    header->checksum = 0;
    header->checksum = acpi_checksum(header, length);
}

static uint32_t acpi_build_dsdt(struct acpi_area *area)
{
    size_t length = sizeof(struct acpi_header) + sizeof(acpi_aml);
    struct acpi_header *dsdt = acpi_take(area, length, 16);

    memcpy(dsdt + 1, acpi_aml, sizeof(acpi_aml));
    acpi_finish(dsdt, "DSDT", 2, length);
    return (uint32_t)acpi_gpa(area, dsdt);
}

static uint32_t acpi_build_facs(struct acpi_area *area)
{
    struct acpi_facs *facs = acpi_take(area, sizeof(*facs), 64);

    memcpy(facs->signature, "FACS", 4);
    facs->length = sizeof(*facs);
    facs->version = 2;
    return (uint32_t)acpi_gpa(area, facs);
}

static struct acpi_address acpi_port(uint16_t port, uint8_t bytes)
{
    /* The access size is 1 for bytes, 2 for words, 3 for double words. */
    return (struct acpi_address){
        .space = 1, .width = (uint8_t)(bytes * 8), .access = bytes == 4 ? 3 : bytes, .address = port};
}

static uint64_t acpi_build_fadt(struct acpi_area *area)
{
    uint32_t facs = acpi_build_facs(area);
    uint32_t dsdt = acpi_build_dsdt(area);
    struct acpi_fadt *fadt = acpi_take(area, sizeof(*fadt), 16);

    fadt->facs = facs;
    fadt->dsdt = dsdt;
    fadt->x_dsdt = dsdt;
    fadt->sci = PM_SCI;
    fadt->pm1a_event = PM_EVENTS;
    fadt->pm1a_control = PM_CONTROL;
    fadt->pm_timer = PM_TIMER;
    fadt->pm1_event_length = 4;
    fadt->pm1_control_length = 2;
    fadt->pm_timer_length = 4;
    /* Latencies above 100 and 1000 microseconds say that there is no C2 and no C3. */
    fadt->c2_latency = 0xfff;
    fadt->c3_latency = 0xfff;
    fadt->century = RTC_CENTURY;
    /* No 8042 bit: there is no keyboard controller. The CMOS clock is there unless bit 5 says otherwise. */
    fadt->boot_flags = BOOT_LEGACY_DEVICES | BOOT_NO_VGA | BOOT_NO_MSI;
    fadt->flags = FLAG_WBINVD | FLAG_C1 | FLAG_NO_FIXED_POWER_BUTTON | FLAG_NO_FIXED_SLEEP_BUTTON |
                  FLAG_NO_FIXED_RTC_WAKE | FLAG_TIMER_32_BIT | FLAG_RESET_REGISTER | FLAG_HEADLESS;
    fadt->reset = acpi_port(RESET_PORT, 1);
    fadt->reset_value = RESET_VALUE;
    fadt->x_pm1a_event = acpi_port(PM_EVENTS, 4);
    fadt->x_pm1a_event.access = 2;    /* two 16-bit registers */
    fadt->x_pm1a_control = acpi_port(PM_CONTROL, 2);
    fadt->x_pm_timer = acpi_port(PM_TIMER, 4);
    acpi_finish(&fadt->header, "FACP", 4, sizeof(*fadt));
    return acpi_gpa(area, fadt);
}

static uint64_t acpi_build_madt(struct acpi_area *area, unsigned cpus)
{
    size_t length = sizeof(struct acpi_madt) + cpus * sizeof(struct acpi_madt_processor) +
                    sizeof(struct acpi_madt_ioapic) + 2 * sizeof(struct acpi_madt_override) +
                    sizeof(struct acpi_madt_nmi);
    struct acpi_madt *madt = acpi_take(area, length, 16);
    struct acpi_madt_processor *processor = (void *)(madt + 1);

    madt->local_apic = LOCAL_APIC_ADDRESS;
    madt->flags = 1;    /* there is a pair of 8259 too */
    for (unsigned i = 0; i < cpus; i++) {
        *processor++ = (struct acpi_madt_processor){
            .type = 0, .length = sizeof(*processor), .uid = (uint8_t)i, .apic_id = (uint8_t)i, .flags = 1};
    }
    struct acpi_madt_ioapic *ioapic = (void *)processor;

    *ioapic = (struct acpi_madt_ioapic){.type = 1,
                                        .length = sizeof(*ioapic),
                                        .id = (uint8_t)(cpus & 0x0f),
                                        .address = (uint32_t)IOAPIC_ADDRESS};
    struct acpi_madt_override *override = (void *)(ioapic + 1);

    /* The timer is on pin 2; the SCI is active high and level-triggered. */
    override[0] = (struct acpi_madt_override){
        .type = 2, .length = sizeof(*override), .irq = 0, .interrupt = 2};
    override[1] = (struct acpi_madt_override){
        .type = 2, .length = sizeof(*override), .irq = PM_SCI, .interrupt = PM_SCI, .flags = 0x0d};
    struct acpi_madt_nmi *nmi = (void *)(override + 2);

    *nmi = (struct acpi_madt_nmi){.type = 4, .length = sizeof(*nmi), .uid = 0xff, .lint = 1};
    acpi_finish(&madt->header, "APIC", 3, length);
    return acpi_gpa(area, madt);
}

/* RSDT (32-bit entries) and XSDT (64-bit entries) list the same tables. */
static uint64_t acpi_build_list(struct acpi_area *area, const char *signature, size_t width,
                                const uint64_t *tables, size_t count)
{
    size_t length = sizeof(struct acpi_header) + count * width;
    struct acpi_header *list = acpi_take(area, length, 16);

    for (size_t i = 0; i < count; i++) {
        memcpy((uint8_t *)(list + 1) + i * width, &tables[i], width);
    }
    acpi_finish(list, signature, 1, length);
    return acpi_gpa(area, list);
}

uint64_t acpi_build(const struct memory *memory, unsigned cpus)
{
    struct acpi_area area = {.gpa = MEMORY_BIOS, .size = 0x4000};
    uint64_t tables[2];
    struct acpi_rsdp *rsdp;

    area.base = memory_at(memory, area.gpa, area.size);
    assert(area.base != NULL);
    rsdp = acpi_take(&area, sizeof(*rsdp), 16);
    tables[0] = acpi_build_fadt(&area);
    tables[1] = acpi_build_madt(&area, cpus);
    memcpy(rsdp->signature, "RSD PTR ", 8);
    memcpy(rsdp->oem, "BLKHD ", 6);
    rsdp->revision = 2;
    rsdp->rsdt = (uint32_t)acpi_build_list(&area, "RSDT", 4, tables, 2);
    rsdp->length = sizeof(*rsdp);
    rsdp->xsdt = acpi_build_list(&area, "XSDT", 8, tables, 2);
    rsdp->checksum = acpi_checksum(rsdp, offsetof(struct acpi_rsdp, length));
    rsdp->extended_checksum = acpi_checksum(rsdp, sizeof(*rsdp));
    return acpi_gpa(&area, rsdp);
}
