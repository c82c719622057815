package gateway

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
)

// maxForwarded is the longest X-Forwarded-For, in bytes, that is read: a
// longer one is no proxy's work.
const maxForwarded = 8 << 10

// Proxies are the proxies whose X-Forwarded-For is believed. The zero value
// believes none. It is not changed after it was parsed.
type Proxies struct{ trusted []netip.Prefix }

// ParseProxies reads FAIRLEAD_TRUSTED_PROXIES: CIDRs (`10.0.0.0/8`), or plain
// addresses for one proxy each.
func ParseProxies(list []string) (Proxies, error) {
	var p Proxies
	for _, text := range list {
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			address, addressErr := netip.ParseAddr(text)
			if addressErr != nil || address.Zone() != "" {
				return Proxies{}, fmt.Errorf("FAIRLEAD_TRUSTED_PROXIES: %q: allowed are CIDRs such as 10.0.0.0/8 and addresses", text)
			}
			prefix = netip.PrefixFrom(address, address.BitLen())
		}
		if a := prefix.Addr(); a.Is4In6() { // ::ffff:10.0.0.0/104 is 10.0.0.0/8
			if prefix.Bits() < 96 {
				return Proxies{}, fmt.Errorf("FAIRLEAD_TRUSTED_PROXIES: %q: write it as an IPv4 CIDR", text)
			}
			prefix = netip.PrefixFrom(a.Unmap(), prefix.Bits()-96)
		}
		p.trusted = append(p.trusted, prefix.Masked())
	}
	return p, nil
}

// ClientAddress returns the address a request comes from: the peer's, or,
// while that is a trusted proxy, the one it says it forwards for, from the
// right of X-Forwarded-For. What a client wrote itself stands left of the
// first address that is not trusted, and is never read. Something that is no
// address ends the walk at the proxy that passed it on. The address is
// unmapped and without a zone; it is invalid where the peer has none.
func (p Proxies) ClientAddress(r *http.Request) netip.Addr {
	client, ok := parseHop(r.RemoteAddr)
	if !ok || !p.trusts(client) {
		return client
	}
	values := r.Header.Values("X-Forwarded-For")
	length := 0
	for _, value := range values {
		length += len(value) + 1
	}
	if length > maxForwarded {
		return client
	}
	for i := len(values) - 1; i >= 0; i-- {
		rest := values[i]
		for more := true; more; {
			hop := rest
			if comma := strings.LastIndexByte(rest, ','); comma >= 0 {
				hop, rest = rest[comma+1:], rest[:comma]
			} else {
				more = false
			}
			address, ok := parseHop(strings.Trim(hop, " \t"))
			if !ok {
				return client
			}
			client = address
			if !p.trusts(client) {
				return client
			}
		}
	}
	return client
}

func (p Proxies) trusts(address netip.Addr) bool {
	for _, prefix := range p.trusted {
		if prefix.Contains(address) {
			return true
		}
	}
	return false
}

// parseHop reads an address with or without a port; IPv6 may have brackets.
func parseHop(text string) (netip.Addr, bool) {
	address, err := netip.ParseAddr(text)
	if err != nil {
		withPort, portErr := netip.ParseAddrPort(text)
		switch {
		case portErr == nil:
			address = withPort.Addr()
		case strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]"):
			if address, err = netip.ParseAddr(text[1 : len(text)-1]); err != nil || !address.Is6() {
				return netip.Addr{}, false
			}
		default:
			return netip.Addr{}, false
		}
	}
	return address.Unmap().WithZone(""), true
}

// LimitKey returns what limits per address count by: the address itself for
// IPv4, the /64 for IPv6, for a client owns a whole one.
func LimitKey(address netip.Addr) netip.Addr {
	address = address.Unmap().WithZone("")
	if !address.Is6() {
		return address
	}
	prefix, err := address.Prefix(64)
	if err != nil {
		return address
	}
	return prefix.Addr()
}
