package pgdev

import "syscall"

const locale = "C.UTF-8"

// dieWithParent stops the server when this process dies, however it does.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGQUIT }
