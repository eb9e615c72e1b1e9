/* rtc.c: time of day, interrupts and memory of the CMOS clock. */
#include "rtc.h"

#include <string.h>
#include <time.h>

#define NS_PER_S UINT64_C(1000000000)

/* The update-in-progress bit is up for this long before each second (data sheet: 244 us and the update
 * itself). */
#define UPDATE_NS UINT64_C(2228000)

enum {
    REG_SECONDS = 0x00,
    REG_SECONDS_ALARM = 0x01,
    REG_MINUTES = 0x02,
    REG_MINUTES_ALARM = 0x03,
    REG_HOURS = 0x04,
    REG_HOURS_ALARM = 0x05,
    REG_WEEKDAY = 0x06,
    REG_DAY = 0x07,
    REG_MONTH = 0x08,
    REG_YEAR = 0x09,
    REG_A = 0x0a,
    REG_B = 0x0b,
    REG_C = 0x0c,
    REG_D = 0x0d
};

enum {
    A_UPDATING = 0x80,
    A_RATE = 0x0f,

    B_SET = 0x80,
    B_PERIODIC = 0x40,
    B_ALARM = 0x20,
    B_UPDATE = 0x10,
    B_BINARY = 0x04,
    B_24_HOURS = 0x02,

    C_REQUEST = 0x80,
    C_CAUSES = 0x70,

    D_VALID = 0x80,

    HOUR_PM = 0x80
};

/* What the calendar can show: 0000-01-01 00:00:00 to 9999-12-31 23:59:59, in seconds since 1970. */
#define RTC_FIRST INT64_C(-62167219200)
#define RTC_LAST INT64_C(253402300799)

/* No host's time is more than this number of seconds away from what the calendar can show. */
#define RTC_MOST_OFFSET (INT64_C(1) << 40)

uint64_t rtc_host_time(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static int64_t rtc_host_seconds(const struct rtc *rtc)
{
    return (int64_t)(rtc->wall() / NS_PER_S);
}

/* The guest's time when it is HOST for the host. At its end the calendar stands. */
static int64_t rtc_seconds(const struct rtc *rtc, int64_t host)
{
    int64_t seconds = host + rtc->offset;

    if ((rtc->memory[REG_B] & B_SET) != 0) {
        return rtc->frozen;
    }
    return seconds < RTC_FIRST ? RTC_FIRST : seconds > RTC_LAST ? RTC_LAST : seconds;
}

static uint8_t rtc_encode(const struct rtc *rtc, int value)
{
    return (uint8_t)((rtc->memory[REG_B] & B_BINARY) != 0 ? value : value / 10 << 4 | value % 10);
}

static int rtc_decode(const struct rtc *rtc, uint8_t value)
{
    return (rtc->memory[REG_B] & B_BINARY) != 0 ? value : (value >> 4) * 10 + (value & 15);
}

static uint8_t rtc_encode_hour(const struct rtc *rtc, int hour)
{
    if ((rtc->memory[REG_B] & B_24_HOURS) != 0) {
        return rtc_encode(rtc, hour);
    }
    return rtc_encode(rtc, (hour + 11) % 12 + 1) | (hour >= 12 ? HOUR_PM : 0);
}

static int rtc_decode_hour(const struct rtc *rtc, uint8_t value)
{
    if ((rtc->memory[REG_B] & B_24_HOURS) != 0) {
        return rtc_decode(rtc, value);
    }
    return rtc_decode(rtc, value & (uint8_t)~HOUR_PM) % 12 + ((value & HOUR_PM) != 0 ? 12 : 0);
}

static uint8_t rtc_read_time(const struct rtc *rtc, unsigned reg)
{
    time_t seconds = (time_t)rtc_seconds(rtc, rtc_host_seconds(rtc));
    struct tm tm;

    if (gmtime_r(&seconds, &tm) == NULL) {
        return 0;
    }
    int year = tm.tm_year + 1900;

    switch (reg) {
    case REG_SECONDS:
        return rtc_encode(rtc, tm.tm_sec);
    case REG_MINUTES:
        return rtc_encode(rtc, tm.tm_min);
    case REG_HOURS:
        return rtc_encode_hour(rtc, tm.tm_hour);
    case REG_WEEKDAY:
        return rtc_encode(rtc, tm.tm_wday + 1);
    case REG_DAY:
        return rtc_encode(rtc, tm.tm_mday);
    case REG_MONTH:
        return rtc_encode(rtc, tm.tm_mon + 1);
    case REG_YEAR:
        return rtc_encode(rtc, year % 100);
    default:
        return rtc_encode(rtc, year / 100);
    }
}

static void rtc_write_time(struct rtc *rtc, unsigned reg, uint8_t value)
{
    int64_t host = rtc_host_seconds(rtc);
    time_t seconds = (time_t)rtc_seconds(rtc, host);
    struct tm tm;

    if (gmtime_r(&seconds, &tm) == NULL) {
        return;
    }
    int year = tm.tm_year + 1900;

    switch (reg) {
    case REG_SECONDS:
        tm.tm_sec = rtc_decode(rtc, value);
        break;
    case REG_MINUTES:
        tm.tm_min = rtc_decode(rtc, value);
        break;
    case REG_HOURS:
        tm.tm_hour = rtc_decode_hour(rtc, value);
        break;
    case REG_WEEKDAY:
        return; /* follows from the date */
    case REG_DAY:
        tm.tm_mday = rtc_decode(rtc, value);
        break;
    case REG_MONTH:
        tm.tm_mon = rtc_decode(rtc, value) - 1;
        break;
    case REG_YEAR:
        tm.tm_year = year / 100 * 100 + rtc_decode(rtc, value) - 1900;
        break;
    default:
        tm.tm_year = year % 100 + rtc_decode(rtc, value) * 100 - 1900;
        break;
    }
    int64_t set = timegm(&tm);

    /* Values outside of their range carry over; but not out of the calendar. */
    if (set < RTC_FIRST || set > RTC_LAST) {
        return;
    }
    rtc->offset = set - host;
    rtc->frozen = set;
}

static bool rtc_is_time(unsigned reg)
{
    return reg == REG_SECONDS || reg == REG_MINUTES ||
           (reg >= REG_HOURS && reg <= REG_YEAR && reg != REG_HOURS_ALARM) || reg == RTC_CENTURY;
}

/* Register C: a cause is recorded in any case and asks for an interrupt when its bit in register B is set. */
static void rtc_raise(struct rtc *rtc, uint8_t cause)
{
    rtc->memory[REG_C] |= cause;
    if ((rtc->memory[REG_C] & rtc->memory[REG_B] & C_CAUSES) != 0) {
        rtc->memory[REG_C] |= C_REQUEST;
        irq_set(&rtc->irq, true);
    }
}

/* Nanoseconds between periodic interrupts with the 32.768 kHz time base; 0 for none. */
static uint64_t rtc_period(const struct rtc *rtc)
{
    unsigned rate = rtc->memory[REG_A] & A_RATE;

    if (rate == 0) {
        return 0;
    }
    /* Rates 1 and 2 give the periods of 8 and 9. */
    return (NS_PER_S << (rate <= 2 ? rate + 6 : rate - 1)) / 32768;
}

static bool rtc_wants_periodic(const struct rtc *rtc)
{
    return (rtc->memory[REG_B] & B_PERIODIC) != 0 && rtc_period(rtc) != 0;
}

static bool rtc_wants_second(const struct rtc *rtc)
{
    return (rtc->memory[REG_B] & (B_UPDATE | B_ALARM)) != 0 && (rtc->memory[REG_B] & B_SET) == 0;
}

/* The next update comes with the host's next second. */
static void rtc_set_second(struct rtc *rtc)
{
    timer_set(&rtc->second, timers_now(rtc->timers) + NS_PER_S - rtc->wall() % NS_PER_S);
}

static void rtc_schedule(struct rtc *rtc)
{
    if (!rtc_wants_periodic(rtc)) {
        timer_stop(&rtc->periodic);
    } else if (rtc->periodic.deadline == TIMERS_NEVER) {
        timer_set(&rtc->periodic, timers_now(rtc->timers) + rtc_period(rtc));
    }
    if (!rtc_wants_second(rtc)) {
        timer_stop(&rtc->second);
    } else if (rtc->second.deadline == TIMERS_NEVER) {
        rtc_set_second(rtc);
    }
}

void rtc_follow_host(struct rtc *rtc)
{
    uint64_t left = timer_left(&rtc->second);

    if (left != 0 && left != TIMERS_NEVER) {
        rtc_set_second(rtc);
    }
}

static void rtc_periodic(void *context, uint64_t now)
{
    struct rtc *rtc = context;

    (void)now;
    rtc_raise(rtc, B_PERIODIC);
    rtc_schedule(rtc);
}

static bool rtc_alarm_matches(const struct rtc *rtc, unsigned alarm, unsigned reg)
{
    /* The two top bits set mean any value. */
    return (rtc->memory[alarm] & 0xc0) == 0xc0 || rtc->memory[alarm] == rtc_read_time(rtc, reg);
}

static void rtc_second(void *context, uint64_t now)
{
    struct rtc *rtc = context;

    (void)now;
    if (rtc_alarm_matches(rtc, REG_SECONDS_ALARM, REG_SECONDS) &&
        rtc_alarm_matches(rtc, REG_MINUTES_ALARM, REG_MINUTES) &&
        rtc_alarm_matches(rtc, REG_HOURS_ALARM, REG_HOURS)) {
        rtc_raise(rtc, B_ALARM);
    }
    rtc_raise(rtc, B_UPDATE);
    rtc_schedule(rtc);
}

static void rtc_write_b(struct rtc *rtc, uint8_t value)
{
    int64_t host = rtc_host_seconds(rtc);
    int64_t seconds = rtc_seconds(rtc, host);
    bool held = (rtc->memory[REG_B] & B_SET) != 0;

    rtc->memory[REG_B] = value;
    if ((value & B_SET) != 0) {
        rtc->frozen = seconds;
    } else if (held) {
        rtc->offset = rtc->frozen - host;
    }
    rtc_schedule(rtc);
    rtc_raise(rtc, 0);
}

static uint8_t rtc_read_register(struct rtc *rtc, unsigned reg)
{
    uint8_t value = rtc->memory[reg];

    if (rtc_is_time(reg)) {
        return rtc_read_time(rtc, reg);
    }
    switch (reg) {
    case REG_A:
        if ((rtc->memory[REG_B] & B_SET) == 0 && rtc->wall() % NS_PER_S >= NS_PER_S - UPDATE_NS) {
            value |= A_UPDATING;
        }
        return value;
    case REG_C:
        rtc->memory[REG_C] = 0;
        irq_set(&rtc->irq, false);
        return value;
    case REG_D:
        return D_VALID;
    default:
        return value;
    }
}

static void rtc_write_register(struct rtc *rtc, unsigned reg, uint8_t value)
{
    if (rtc_is_time(reg)) {
        rtc_write_time(rtc, reg, value);
        return;
    }
    switch (reg) {
    case REG_A:
        rtc->memory[REG_A] = value & (uint8_t)~A_UPDATING;
        timer_stop(&rtc->periodic);
        rtc_schedule(rtc);
        break;
    case REG_B:
        rtc_write_b(rtc, value);
        break;
    case REG_C:
    case REG_D:
        break;
    default:
        rtc->memory[reg] = value;
        break;
    }
}

uint64_t rtc_read(void *device, uint64_t offset, unsigned size)
{
    struct rtc *rtc = device;

    (void)size;
    return offset == 0 ? 0xff : rtc_read_register(rtc, rtc->index);
}

void rtc_write(void *device, uint64_t offset, unsigned size, uint64_t value)
{
    struct rtc *rtc = device;

    (void)size;
    if (offset == 0) {
        rtc->index = value & 0x7f; /* bit 7 masks NMIs on a PC */
    } else {
        rtc_write_register(rtc, rtc->index, (uint8_t)value);
    }
}

static void rtc_put16(struct rtc *rtc, unsigned low, unsigned high, uint64_t value)
{
    if (value > 0xffff) {
        value = 0xffff;
    }
    rtc->memory[low] = (uint8_t)value;
    rtc->memory[high] = (uint8_t)(value >> 8);
}

void rtc_describe(struct rtc *rtc, uint64_t low_memory, uint64_t high_memory, unsigned cpus)
{
    const uint64_t mib = 1024 * 1024;

    rtc_put16(rtc, 0x15, 0x16, 640);
    rtc_put16(rtc, 0x17, 0x18, low_memory > mib ? (low_memory - mib) / 1024 : 0);
    rtc_put16(rtc, 0x30, 0x31, low_memory > mib ? (low_memory - mib) / 1024 : 0);
    rtc_put16(rtc, 0x34, 0x35, low_memory > 16 * mib ? (low_memory - 16 * mib) / 65536 : 0);
    /* As SeaBIOS reads them: 64 KiB units above 4 GiB, and the processors beyond the first. */
    rtc->memory[0x5b] = (uint8_t)(high_memory / 65536);
    rtc->memory[0x5c] = (uint8_t)(high_memory / 65536 >> 8);
    rtc->memory[0x5d] = (uint8_t)(high_memory / 65536 >> 16);
    rtc->memory[0x5f] = (uint8_t)(cpus - 1);
}

static const struct state_field rtc_fields[] = {
    STATE_BITS(struct rtc, index, 0x7f),
    STATE_BYTES(struct rtc, memory),
};

/* The rest, as the record has it. */
struct rtc_record {
    uint64_t ahead;    /* RTC_MOST_OFFSET + `offset` */
    uint64_t frozen;   /* `frozen` - RTC_FIRST */
    uint64_t periodic; /* until the periodic interrupt */
    bool late;         /* an update has come and was not told yet */
};

static const struct state_field rtc_record_fields[] = {
    STATE_RANGE(struct rtc_record, ahead, 0, 2 * RTC_MOST_OFFSET),
    STATE_RANGE(struct rtc_record, frozen, 0, RTC_LAST - RTC_FIRST),
    STATE_ANY(struct rtc_record, periodic),
    STATE_FLAG(struct rtc_record, late),
};

void rtc_save(const struct rtc *rtc, struct state_writer *to)
{
    const struct rtc_record record = {
        .ahead = (uint64_t)(RTC_MOST_OFFSET + rtc->offset),
        .frozen = (uint64_t)(rtc->frozen - RTC_FIRST),
        .periodic = timer_left(&rtc->periodic),
        .late = timer_left(&rtc->second) == 0,
    };

    state_begin(to, "RTC ", 1);
    state_put_fields(to, rtc_fields, STATE_COUNT(rtc_fields), rtc);
    state_put_fields(to, rtc_record_fields, STATE_COUNT(rtc_record_fields), &record);
    state_end(to);
}

static void rtc_check(const struct rtc *rtc, const struct rtc_record *record, struct state_reader *from)
{
    if ((rtc->memory[REG_A] & A_UPDATING) != 0) {
        state_refuse(from, "register A is 0x%02x, and its top bit is never kept", rtc->memory[REG_A]);
    }
    if (rtc_wants_periodic(rtc) ? record->periodic > rtc_period(rtc) : record->periodic != TIMERS_NEVER) {
        state_refuse(from, "the next periodic interrupt is %llu ns away, and the period has %llu",
                     (unsigned long long)record->periodic,
                     (unsigned long long)(rtc_wants_periodic(rtc) ? rtc_period(rtc) : 0));
    }
    if (record->late && !rtc_wants_second(rtc)) {
        state_refuse(from, "an update is late that nobody waits for");
    }
}

bool rtc_load(struct rtc *rtc, struct state_reader *from)
{
    struct rtc loaded = *rtc;
    struct rtc_record record = {0};

    state_enter(from, "RTC ", 1);
    state_get_fields(from, rtc_fields, STATE_COUNT(rtc_fields), &loaded);
    state_get_fields(from, rtc_record_fields, STATE_COUNT(rtc_record_fields), &record);
    loaded.offset = (int64_t)record.ahead - RTC_MOST_OFFSET;
    loaded.frozen = (int64_t)record.frozen + RTC_FIRST;
    rtc_check(&loaded, &record, from);
    if (!state_leave(from)) {
        return false;
    }
    *rtc = loaded;
    timer_stop(&rtc->periodic);
    timer_stop(&rtc->second);
    if (rtc_wants_periodic(rtc)) {
        timer_set(&rtc->periodic, timers_now(rtc->timers) + record.periodic);
    }
    if (record.late) {
        timer_set(&rtc->second, timers_now(rtc->timers));
    }
    rtc_schedule(rtc);
    return true;
}

void rtc_init(struct rtc *rtc, struct timers *timers, uint64_t (*wall)(void), struct irq_wire irq)
{
    memset(rtc, 0, sizeof(*rtc));
    rtc->timers = timers;
    rtc->wall = wall;
    rtc->irq = irq;
    rtc->memory[REG_A] = 0x26; /* 32.768 kHz, 1024 periodic interrupts a second */
    rtc->memory[REG_B] = B_24_HOURS;
    timer_add(&rtc->periodic, timers, rtc_periodic, rtc);
    timer_add(&rtc->second, timers, rtc_second, rtc);
}
