package gateway

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

func forwarded(peer string, values ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/ws", nil)
	r.RemoteAddr = peer
	for _, v := range values {
		r.Header.Add("X-Forwarded-For", v)
	}
	return r
}

func TestClientAddress(t *testing.T) {
	behind := []string{"10.0.0.0/8", " 192.168.1.1", "fd00::/8", "::ffff:172.16.0.0/108", ""}
	for _, c := range []struct {
		name    string
		trusted []string
		request *http.Request
		want    string // "" = invalid
	}{
		{"nobody is trusted", nil, forwarded("10.0.0.1:99", "1.2.3.4"), "10.0.0.1"},
		{"the peer is no proxy", behind, forwarded("9.9.9.9:99", "1.2.3.4"), "9.9.9.9"},
		{"no header", behind, forwarded("10.0.0.1:99"), "10.0.0.1"},
		{"one proxy", behind, forwarded("10.0.0.1:99", "1.2.3.4"), "1.2.3.4"},
		{"what the client wrote is not read", behind, forwarded("10.0.0.1:99", "6.6.6.6, 1.2.3.4"), "1.2.3.4"},
		{"a proxy the client wrote is not believed", behind, forwarded("10.0.0.1:99", "6.6.6.6, 10.0.0.7, 1.2.3.4"), "1.2.3.4"},
		{"two proxies", behind, forwarded("10.0.0.1:99", "6.6.6.6, 1.2.3.4,192.168.1.1"), "1.2.3.4"},
		{"two headers", behind, forwarded("10.0.0.1:99", "6.6.6.6", "1.2.3.4, 10.0.0.2"), "1.2.3.4"},
		{"two headers, proxies in the second", behind, forwarded("10.0.0.1:99", "6.6.6.6, 1.2.3.4", "10.0.0.3,10.0.0.2"), "1.2.3.4"},
		{"proxies all the way", behind, forwarded("10.0.0.1:99", "10.1.1.1, 10.0.0.2"), "10.1.1.1"},
		{"a port", behind, forwarded("10.0.0.1:99", "1.2.3.4:5678"), "1.2.3.4"},
		{"IPv6", behind, forwarded("[fd00::1]:99", "2001:db8::7"), "2001:db8::7"},
		{"IPv6 in brackets", behind, forwarded("[fd00::1]:99", "[2001:db8::7]"), "2001:db8::7"},
		{"IPv6 and a port", behind, forwarded("[fd00::1]:99", "[2001:db8::7]:443"), "2001:db8::7"},
		{"IPv4 in IPv6", behind, forwarded("[::ffff:10.0.0.1]:99", "::ffff:1.2.3.4"), "1.2.3.4"},
		{"IPv4 in IPv6, trusted as such", behind, forwarded("172.16.3.4:99", "1.2.3.4"), "1.2.3.4"},
		{"a zone", behind, forwarded("[fe80::1%eth0]:99", "1.2.3.4"), "fe80::1"},
		{"garbage", behind, forwarded("10.0.0.1:99", "unknown"), "10.0.0.1"},
		{"garbage behind a second proxy", behind, forwarded("10.0.0.1:99", "1.2.3.4, _hidden, 10.0.0.2"), "10.0.0.2"},
		{"garbage left of the client", behind, forwarded("10.0.0.1:99", "<script>, 1.2.3.4"), "1.2.3.4"},
		{"empty", behind, forwarded("10.0.0.1:99", ""), "10.0.0.1"},
		{"empty element", behind, forwarded("10.0.0.1:99", "1.2.3.4,,10.0.0.2"), "10.0.0.2"},
		{"IPv4 in brackets", behind, forwarded("10.0.0.1:99", "[1.2.3.4]"), "10.0.0.1"},
		{"too long", behind, forwarded("10.0.0.1:99", strings.Repeat("6.6.6.6,", maxForwarded/8)+"1.2.3.4"), "10.0.0.1"},
		{"too long together", behind, forwarded("10.0.0.1:99", strings.Repeat(" ", maxForwarded), "1.2.3.4"), "10.0.0.1"},
		{"no address", behind, forwarded("@", "1.2.3.4"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			proxies, err := ParseProxies(c.trusted)
			if err != nil {
				t.Fatal(err)
			}
			got := proxies.ClientAddress(c.request)
			if c.want == "" && got.IsValid() || c.want != "" && got != netip.MustParseAddr(c.want) {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestProxiesRefused(t *testing.T) {
	for _, text := range []string{"10.0.0.0/33", "proxy.local", "10.0.0", "fe80::1%eth0", "10.0.0.1:80", "::ffff:0.0.0.0/90", "*"} {
		if _, err := ParseProxies([]string{"10.0.0.0/8", text}); err == nil || !strings.Contains(err.Error(), "FAIRLEAD_TRUSTED_PROXIES") || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: got %v, want an error that names it and the variable", text, err)
		}
	}
}

func TestLimitKey(t *testing.T) {
	for address, want := range map[string]string{
		"1.2.3.4": "1.2.3.4", "::ffff:1.2.3.4": "1.2.3.4", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::", "2001:db8:1:2:ffff::1": "2001:db8:1:2::", "fe80::1%eth0": "fe80::",
	} {
		if got := LimitKey(netip.MustParseAddr(address)); got != netip.MustParseAddr(want) {
			t.Errorf("%s: got %s, want %s", address, got, want)
		}
	}
	if LimitKey(netip.Addr{}).IsValid() {
		t.Error("no address has a key")
	}
}

// FuzzClientAddress: whatever a client writes left of what the proxy appended,
// the proxy's word is the answer.
func FuzzClientAddress(f *testing.F) {
	f.Add("6.6.6.6", "1.2.3.4")
	f.Add("10.0.0.1, ", "2001:db8::1")
	f.Add("\x00,,[", "::ffff:9.9.9.9")
	proxies, err := ParseProxies([]string{"10.0.0.0/8"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, written, client string) {
		proxies.ClientAddress(forwarded("10.0.0.1:9", written))
		address, err := netip.ParseAddr(client)
		if err != nil || len(written)+len(client) > maxForwarded-8 {
			return
		}
		address = address.Unmap().WithZone("")
		if proxies.trusts(address) {
			return
		}
		if got := proxies.ClientAddress(forwarded("10.0.0.1:9", written+", "+client)); got != address {
			t.Errorf("%q, %q: got %s", written, client, got)
		}
		if got := proxies.ClientAddress(forwarded(netip.AddrPortFrom(address, 9).String(), written)); got != address {
			t.Errorf("peer %s is not believed about itself: got %s", address, got)
		}
	})
}
