// The one way to the kernel. Everything else in this engine calls it, so that tests can stand in for it.
#ifndef BULKHEAD_KVM_IOCTL_H
#define BULKHEAD_KVM_IOCTL_H

#include "engine/engine.h"

// 0 or a positive answer, or minus the error number. Does not restart after EINTR.
CHECKED int kvm_ioctl(int fd, unsigned long request, void *argument);
// The same with a plain number as argument.
CHECKED int kvm_ioctl_value(int fd, unsigned long request, unsigned long value);
// An answer of kvm_ioctl as the API says it: S_OK for 0 and above; E_OUTOFMEMORY for ENOMEM, EMFILE, ENFILE
// and ENOSPC; E_ACCESSDENIED for EPERM and EACCES; else E_FAIL.
HRESULT kvm_hresult(int answer);

#endif
