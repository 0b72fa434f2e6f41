// The health page asks for its own newer self every few seconds, through htmx.
import htmx from "htmx.org";

// Neither inline styles nor evaluated expressions: the pages' content security policy forbids both.
htmx.config.includeIndicatorCSS = false;
