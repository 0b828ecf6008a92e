package hint

import (
	"fmt"
	"strings"
)

// Few lists names for a person, the first of them if they are many.
func Few(names []string) string {
	const most = 20
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
