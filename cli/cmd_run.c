/* cmd_run.c: `bulkhead run`: a machine that starts with a guest from files. */
#include "commands.h"
#include "run.h"

static bool run_load(const struct options *options, struct machine *machine, struct start *start,
                     struct error *err)
{
    const struct linux_options linux_options = {
        .kernel = options->file,
        .initrd = options->module_count > 0 ? options->modules[0] : NULL,
        .append = options->append != NULL ? options->append : "console=ttyS0",
        .cpus = options->machine.cpus,
    };
    const struct multiboot_options multiboot_options = {
        .kernel = options->file,
        .append = options->append,
        .modules = options->modules,
        .module_count = options->module_count,
        .cpus = options->machine.cpus,
    };

    switch (options->boot) {
    case OPTIONS_KERNEL:
        return linux_load(&machine->memory, &linux_options, start, err);
    case OPTIONS_FIRMWARE:
        return firmware_load(&machine->memory, options->file, err);
    case OPTIONS_FLAT:
        return flat_load(&machine->memory, options->file, options->flat_address, start, err);
    case OPTIONS_MULTIBOOT:
        return multiboot_load(&machine->memory, &multiboot_options, start, err);
    case OPTIONS_NO_BOOT:
        break;
    }
    return error_set(err, EXIT_USAGE, "nothing to run");
}

static bool run_build(struct run *run, struct error *err)
{
    struct start start = {0};

    run->created = true;
    return machine_create(run->machine, &run->options.machine, err) &&
           run_load(&run->options, run->machine, &start, err) && machine_set_up(run->machine, &start, err);
}

static bool run_begin(struct run *run, struct error *err)
{
    return control_start(&run->control, run->machine, err);
}

static bool run_end(struct run *run, struct error *err)
{
    (void)run;
    (void)err;
    return true;
}

bool cmd_run(int argc, char **argv, int *code, struct error *err)
{
    static const struct run_verb verb = {run_build, run_begin, run_end};

    return run_command(argc, argv, &verb, NULL, code, err);
}
