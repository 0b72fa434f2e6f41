// The link to the hub: receives JSON texts and stream frames over a WebSocket and hands them to a page. It connects
// again for ever, and a link that says nothing for 3 s (the hub speaks at least once a second) is marked for all to see.
import { one, setText } from "./dom";
import type { Format } from "./format";

export interface Message {
  kind: string;
  now_ms: number;
  /** Left out while the hub stores what comes. */
  storing?: boolean;
}

export interface LinkEvents {
  message(message: Message): void;
  frame?(data: ArrayBuffer): void;
  /** Once a second, with hub time in ms: ages grow without a message. */
  tick(now: number): void;
}

const SILENT_MS = 3000;
const GIVE_UP_MS = 10_000;
const BACK_OFF_MS = [500, 1000, 2000, 4000, 8000, 15_000];
/** The close code with which the hub ends the link of a session that has ended. */
const POLICY_VIOLATION = 1008;

export class LiveLink {
  private socket: WebSocket | null = null;
  private offset: number;
  private heard = performance.now();
  private dialled = performance.now();
  private attempts = 0;
  private silent = false;
  private ever = false;
  private readonly badge = one("#link");
  private readonly bar = one("#linkbar");
  private readonly barText = one("#linkbar-text");
  private readonly announcer = one("#announce");

  constructor(
    private readonly path: string,
    servedMs: number,
    private readonly format: Format,
    private readonly events: LinkEvents,
    private readonly random: () => number = Math.random,
  ) {
    this.offset = servedMs - performance.now();
    this.connect();
    window.setInterval(() => this.watch(), 500);
    window.setInterval(() => this.events.tick(this.now()), 1000);
  }

  /** The hub's clock in ms. */
  now(): number {
    return performance.now() + this.offset;
  }

  get isSilent(): boolean {
    return this.silent;
  }

  /** Said by a screen reader when it has a pause; keep it rare. */
  announce(text: string): void {
    setText(this.announcer, text);
  }

  private connect(): void {
    const url = new URL(this.path, location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    this.dialled = performance.now();
    this.socket = socket;
    socket.onmessage = (event: MessageEvent<string | ArrayBuffer>) => {
      if (this.socket === socket) this.receive(event.data);
    };
    socket.onclose = (event) => {
      if (this.socket !== socket) return;
      this.socket = null;
      // A session that has ended is told by the close code, or, where the link was refused, by the session itself.
      if (event.code === POLICY_VIOLATION) void this.whoAmI();
      else this.again();
    };
  }

  private async whoAmI(): Promise<void> {
    try {
      const answer = await fetch("/api/v1/session", { headers: { Accept: "application/json" } });
      const session = (await answer.json()) as { person?: unknown };
      if (answer.ok && session.person === null) {
        this.signedOut();
        return;
      }
    } catch {
      // The hub is out of reach: that is what the bar says, and the next attempt will show.
    }
    this.dialLater();
  }

  private again(): void {
    if (this.attempts > 0 && this.attempts % 3 === 0) void this.whoAmI();
    else this.dialLater();
  }

  private dialLater(): void {
    const step = BACK_OFF_MS[Math.min(this.attempts, BACK_OFF_MS.length - 1)] ?? 15_000;
    this.attempts += 1;
    // Jitter: thirty browsers must not all return in the same moment after the hub has started again.
    window.setTimeout(() => this.connect(), step * (0.5 + this.random()));
  }

  private receive(data: string | ArrayBuffer): void {
    this.heard = performance.now();
    if (typeof data !== "string") {
      this.events.frame?.(data);
      return;
    }
    const message = JSON.parse(data) as Message;
    // What arrives fastest tells the hub's time best; 1 ms a message lets the estimate follow a drifting clock.
    this.offset = Math.max(this.offset - 1, message.now_ms - this.heard);
    this.attempts = 0;
    if (!this.ever || this.silent) this.mark(false);
    this.ever = true;
    one("#not-storing").hidden = message.storing !== false;
    this.events.message(message);
  }

  private watch(): void {
    const silence = performance.now() - this.heard;
    if (silence <= SILENT_MS) return;
    if (!this.silent) this.mark(true);
    const text = this.format.word("link", "silent");
    setText(this.barText, this.format.fill(text, { age: this.format.age(silence / 1000) }));
    if (performance.now() - Math.max(this.heard, this.dialled) > GIVE_UP_MS && this.socket) {
      // Half open: nothing comes and no close either. Leave it and dial anew.
      const dead = this.socket;
      this.socket = null;
      dead.close();
      this.again();
    }
  }

  private mark(silent: boolean): void {
    if (this.silent && !silent) this.announce(this.format.word("link", "restored"));
    this.silent = silent;
    document.body.classList.toggle("link-silent", silent);
    this.bar.hidden = !silent;
    const code = silent ? "waiting" : "live";
    this.badge.dataset["link"] = code;
    setText(this.badge, this.format.word("link", code));
    if (silent) this.announce(this.format.fill(this.format.word("link", "silent"), { age: this.format.age(3) }));
  }

  private signedOut(): void {
    this.mark(true);
    const text = this.format.word("link", "signed_out");
    setText(this.barText, text);
    this.announce(text);
    this.watch = () => undefined;
  }
}
