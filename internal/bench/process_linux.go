package bench

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is USER_HZ, 100 on every Linux that Go runs on.
const clockTick = time.Second / 100

// processUsage reads /proc: CPU to 10 ms, memory to a page.
func processUsage(pid int) (cpu time.Duration, rss int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The second field, the name, is in parentheses and may hold anything.
	i := bytes.LastIndexByte(b, ')')
	f := strings.Fields(string(b[i+1:]))
	if i < 0 || len(f) < 22 {
		return 0, 0, fmt.Errorf("/proc/%d/stat: unknown form", pid)
	}
	user, err1 := strconv.ParseInt(f[11], 10, 64)
	system, err2 := strconv.ParseInt(f[12], 10, 64)
	pages, err3 := strconv.ParseInt(f[21], 10, 64)
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			return 0, 0, err
		}
	}
	return time.Duration(user+system) * clockTick, pages * int64(os.Getpagesize()), nil
}

// familyUsage is the CPU time of a process and of its children, those that have
// ended too.
func familyUsage(pid int) (cpu time.Duration, err error) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // a constant pattern
	for _, stat := range stats {
		b, err := os.ReadFile(stat)
		if err != nil {
			continue // it has ended: its parent has its time
		}
		i := bytes.LastIndexByte(b, ')')
		f := strings.Fields(string(b[i+1:]))
		if i < 0 || len(f) < 15 {
			return 0, fmt.Errorf("%s: unknown form", stat)
		}
		own := stat == fmt.Sprintf("/proc/%d/stat", pid)
		if !own && f[1] != strconv.Itoa(pid) {
			continue
		}
		ticks := f[11:13]
		if own {
			ticks = f[11:15]
		}
		for _, t := range ticks {
			n, err := strconv.ParseInt(t, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", stat, err)
			}
			cpu += time.Duration(n) * clockTick
		}
	}
	return cpu, nil
}

// listener returns the process that listens on addr (host:port), 0 if it can't be seen.
func listener(addr string) int {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return 0
	}
	for _, inode := range listeningInodes(net.ParseIP(host), n) {
		links, _ := filepath.Glob("/proc/[0-9]*/fd/*") // a constant pattern
		for _, link := range links {
			if to, err := os.Readlink(link); err == nil && to == "socket:["+inode+"]" {
				pid, _ := strconv.Atoi(strings.Split(link, "/")[2]) // matched [0-9]*
				return pid
			}
		}
	}
	return 0
}

// listeningInodes returns the sockets that listen on the port, those of the
// very address first.
func listeningInodes(ip net.IP, port int) (inodes []string) {
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for _, line := range strings.Split(string(b), "\n") {
			f := strings.Fields(line)
			if len(f) < 10 || f[3] != "0A" { // TCP_LISTEN
				continue
			}
			addr, p, _ := strings.Cut(f[1], ":")
			if v, err := strconv.ParseUint(p, 16, 16); err != nil || int(v) != port {
				continue
			}
			if ip != nil && kernelIP(addr).Equal(ip) {
				inodes = append([]string{f[9]}, inodes...)
			} else {
				inodes = append(inodes, f[9])
			}
		}
	}
	return inodes
}

// kernelIP reads an address as /proc/net prints it: words in the machine's byte order.
func kernelIP(s string) net.IP {
	b, err := hex.DecodeString(s)
	if err != nil || len(b)%4 != 0 {
		return nil
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	return b
}

// machineBusy returns the time all cores were busy and in all, since boot.
func machineBusy() (busy, all time.Duration) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	for i, f := range strings.Fields(line) {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil || i > 8 { // "cpu"; guest time is in user time already
			continue
		}
		all += time.Duration(n) * clockTick
		if i != 4 && i != 5 { // idle, iowait
			busy += time.Duration(n) * clockTick
		}
	}
	return busy, all
}
