/* transfer.h: one request at a running machine: to write itself to a descriptor and end, or to move to another
 * process.
 *
 * Who has a moving machine: it stands here until everything is sent; the target says REDY when it could run; then
 * it is decided here, and GO__ is sent. Until then whatever goes wrong lets it go on here. From then on it does not
 * run here again, and ends when the target says RUNS. If that does not come, nobody here can know whether it runs
 * there: it stays paused. */
#ifndef CLI_TRANSFER_H
#define CLI_TRANSFER_H

#include "machine.h"
#include "message.h"

enum transfer_outcome {
    TRANSFER_HERE, /* the machine runs here, or has ended */
    TRANSFER_GONE, /* it has ended here, because it was saved or runs elsewhere */
    TRANSFER_UNKNOWN /* it is paused here, and may run elsewhere */
};

/* Serves REQUEST of CLIENT to write to FD. RESULT is filled for the client. STOP becomes readable when the machine has
 * ended for another reason. Any thread that may call machine_pause. */
enum transfer_outcome transfer_serve(struct machine *machine, const struct message *request, int client, int fd,
                                     int stop, struct message *result);

#endif
