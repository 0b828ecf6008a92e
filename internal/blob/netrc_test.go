package blob

import "testing"

func TestNetrc(t *testing.T) {
	const file = `# of our machines
machine other.example.org login nobody password nothing
machine cache.example.org
	login reader
	account ignored
	password p#ss # and nothing else
macdef init
machine cache.example.org login macro password macro

machine cache.example.org login second password second
default login anonymous password guest
machine late.example.org login late password late
`
	for _, test := range []struct{ netrc, host, login, password string }{
		{file, "cache.example.org", "reader", "p#ss"},
		{file, "CACHE.example.org", "reader", "p#ss"},
		{file, "elsewhere.example.org", "anonymous", "guest"},
		{file, "late.example.org", "anonymous", "guest"}, // as the default comes first
		{"machine a login l password p", "b", "", ""},
		{"machine a password p", "a", "", "p"},
		{"macdef init\n# comment\nmachine a login macro password macro\n\nmachine a login l password p", "a", "l", "p"},
		{"macdef init\n\"\nmachine a login macro password macro\n\nmachine a login l password p", "a", "l", "p"},
		{"Machine a LOGIN l Password p", "a", "l", "p"},
		{`machine a login l password p"s\w"`, "a", "l", `p"s\w"`}, // quotes count at the begin of a word only
		{"", "a", "", ""},
		{`machine a login "l m" password "p\"a\\ss\tword#"`, "a", "l m", "p\"a\\ss\tword#"},
		{`machine a login l password "" # none`, "a", "l", ""},
		{`machine a login l password #comment` + "\np", "a", "l", "p"},
		{"machine a\r\nlogin l\r\npassword p\r\n", "a", "l", "p"},
	} {
		login, password, err := netrcFor(test.host, test.netrc)
		if login != test.login || password != test.password || err != nil {
			t.Errorf("%s: got %q and %q, error %v; want %q and %q", test.host, login, password, err, test.login, test.password)
		}
	}
	_, _, err := netrcFor("a", "machine a login l\npasword s3cr3t")
	if err == nil || err.Error() != "line 2 of netrc has something else than machine, default, login, password, account or macdef" {
		t.Errorf("the error is %v", err)
	}
	if _, _, err = netrcFor("a", "machine a\npassword \"s3cr3t"); err == nil || err.Error() != "line 2 of netrc: a quoted string has no end" {
		t.Errorf("the error is %v", err)
	}
}
