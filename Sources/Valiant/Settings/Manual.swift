/// Documentation that follows from the rows of settings: manual pages, tables, completion.
enum Manual {
  /// What `--print` takes.
  static let names = [
    "config", "commands", "settings", "valiant.1", "valiant.conf.5", "bash-completion",
  ]

  /// The piece with that name that is made of settings alone; nil for another name.
  static func text(_ name: String) -> String? {
    switch name {
    case "config": defaultFile
    case "settings": settingsTable
    case "valiant.1": programPage
    case "valiant.conf.5": filePage
    case "bash-completion": completion
    default: nil
    }
  }

  /// A configuration file that says what holds without one.
  static var defaultFile: String {
    Setting.all.map { setting in
      "# \(setting.summary)\n# \(setting.name) \(setting.defaultText)\n"
    }.joined(separator: "\n")
  }

  /// The README's table of settings.
  static var settingsTable: String {
    let rows = Setting.all.map { setting in
      let change = setting.change == .anyTime ? "any time" : "at start"
      return "| `\(setting.name)` | `\(setting.defaultText)` | \(change) | \(setting.summary) |"
    }
    return "| setting | default | change | meaning |\n|---|---|---|---|\n"
      + rows.joined(separator: "\n") + "\n"
  }

  // MARK: Manual pages, in the language of man(7)

  private static var programPage: String {
    let options = Setting.all.map { setting in
      paragraph("--\(setting.name)", argument: "VALUE", setting.summary)
    }
    return """
      .TH VALIANT 1 "" "Valiant \(Version.valiant)" "User Commands"
      .SH NAME
      valiant \\- in-memory key-value server that speaks RESP, the protocol of Redis
      .SH SYNOPSIS
      .B valiant
      .RI [ FILE ]
      .RB [ \\-\\-config
      .IR FILE ]
      .RB [ \\-\\-\\fISETTING\\fR
      .IR VALUE ]...
      .SH DESCRIPTION
      Keeps keys and values in memory and serves them to clients of Redis, on 127.0.0.1 and ::1, port
      4200, unless told otherwise. Settings come from FILE and from flags, of which the flags win. It
      stays in the foreground and logs to standard error.
      .SH OPTIONS
      Each setting of
      .BR valiant.conf (5)
      is a flag; its kind of value and default are told there.
      \(options.joined(separator: "\n"))
      \(paragraph("--config", argument: "FILE", "Read settings from FILE."))
      \(paragraph("--print", argument: "WHAT", "Print a piece of the documentation and end: \(names.joined(separator: ", "))."))
      \(paragraph("--check", argument: "FILE", "Read a snapshot, such as Redis's dump.rdb, or an append log (a file of it, its manifest or its folder) to its end, and say what is in it, or where it is damaged."))
      \(paragraph("--help", argument: "", "Print the flags with their defaults and end."))
      \(paragraph("--version", argument: "", "Print the version and end."))
      .SH SIGNALS
      .TP
      .BR SIGTERM ", " SIGINT
      Stop accepting, answer what was accepted, save the keys if save says so, and end. Where they cannot
      be saved the server goes on, and logs why.
      .TP
      .B SIGHUP
      Read the configuration file again and log what has changed. A file with a mistake changes nothing.
      .SH EXIT STATUS
      .TP
      .B 0
      after SIGTERM, SIGINT or SHUTDOWN.
      .TP
      .B 1
      when an address is taken, the system refuses something, or --check finds damage.
      .TP
      .B 2
      for a mistake in flags or configuration, or a damaged snapshot or append log: starting again would not help.
      .SH ENVIRONMENT
      All of it is set by
      .BR systemd (1).
      .TP
      .BR LISTEN_FDS ", " LISTEN_PID ", " LISTEN_FDNAMES
      Listening sockets. Those named
      .B listen
      are the server's own, kept over a restart, and used as far as the settings still name their
      addresses. Others, of a socket unit, take the place of bind, port and unixsocket.
      .TP
      .BR NOTIFY_SOCKET ", " WATCHDOG_USEC
      Where the server says that it is ready, how it is doing, and that all its loops turn.
      .TP
      .B CREDENTIALS_DIRECTORY
      Its file valiant.requirepass holds the password, unless file or flags name one.
      .TP
      .B RUNTIME_DIRECTORY
      Where a unix socket with a relative path lies.
      .TP
      .B STATE_DIRECTORY
      Where keys are kept, unless dir says something else. Its file valiant.conf, if there is one, is read behind FILE. CONFIG REWRITE writes there what it may not
      write to FILE.
      .SH FILES
      .TP
      .I /var/lib/valiant/dump.rdb
      The snapshot of valiant.service, which Redis reads, too.
      .TP
      .I /var/lib/valiant/appendonlydir
      Its append log, when appendonly is yes; Redis 7 reads it, too.
      .TP
      .I /etc/valiant/valiant.conf
      Settings of the service valiant.service.
      .TP
      .I /etc/valiant/valiant-NAME.conf
      Settings of the further service valiant@NAME.service.
      .TP
      .IR /var/lib/valiant/valiant.conf ", " /var/lib/valiant-NAME/valiant.conf
      What CONFIG REWRITE has kept of them; may be removed.
      .SH EXAMPLES
      .nf
      valiant --port 4201 --threads 2
      redis-cli -p 4201 SET greeting hello
      .fi
      .SH SEE ALSO
      .BR valiant.conf (5),
      .BR redis-cli (1)

      """
  }

  private static var filePage: String {
    let directives = Setting.all.map { setting in
      let change = setting.change == .anyTime ? "Can be changed at any time." : "Read at the start."
      return paragraph(
        setting.name, argument: "",
        "\(setting.summary) Value: \(setting.valueText). Default: \(setting.defaultText). \(change)"
      )
    }
    return """
      .TH VALIANT.CONF 5 "" "Valiant \(Version.valiant)" "File Formats"
      .SH NAME
      valiant.conf \\- settings of the key-value server valiant
      .SH DESCRIPTION
      One directive a line: a name, blanks, a value. Values with blanks may stand in quotes, single or
      double. Lines that begin with # are comments. Of several lines for one setting the last one holds.
      .PP
      What can be changed at any time can also be changed by CONFIG SET, and is read again on SIGHUP
      .RB ( "systemctl reload valiant" ).
      The rest needs a restart, in which no connection is refused.
      .PP
      CONFIG REWRITE writes what CONFIG SET has changed into this file, and leaves the rest of it as it is; where
      the server may not write to it, as under systemd, into valiant.conf in the state directory, which wins
      over this one and is named in the log at each start.
      .PP
      A mistake is told with its line; then the server does not start, or goes on as it was.
      .SH DIRECTIVES
      \(directives.joined(separator: "\n"))
      .SH EXAMPLE
      .nf
      port 4200
      bind 127.0.0.1 \\-::1 192.0.2.7
      requirepass "a long pass phrase"
      maxclients 20000
      .fi
      .SH SEE ALSO
      .BR valiant (1)

      """
  }

  /// A term in bold and what it means. Words in backticks become bold.
  private static func paragraph(_ term: String, argument: String, _ text: String) -> String {
    var body = ""
    for (index, piece) in text.split(separator: "`", omittingEmptySubsequences: false).enumerated()
    {
      body += index % 2 == 1 ? "\\fB\(escaped(String(piece)))\\fR" : escaped(String(piece))
    }
    let value = argument.isEmpty ? "" : " \\fI\(argument)\\fR"
    return ".TP\n\\fB\(escaped(term))\\fR\(value)\n\(body)"
  }

  private static func escaped(_ text: String) -> String {
    var result = ""
    for character in text {
      switch character {
      case "\\": result += "\\e"
      case "-": result += "\\-"
      default: result.append(character)
      }
    }
    return result.hasPrefix(".") || result.hasPrefix("'") ? "\\&" + result : result
  }

  // MARK: Completion

  private static var completion: String {
    let flags = (Setting.all.map(\.name) + ["config", "check", "print", "help", "version"]).map {
      "--\($0)"
    }
    let choices = Setting.all.compactMap { setting -> String? in
      switch setting.kind {
      case .flag: "    --\(setting.name)) choices='yes no' ;;"
      case .logLevel:
        "    --\(setting.name)) choices='\(LogLevel.allCases.map(\.name).joined(separator: " "))' ;;"
      default: nil
      }
    }
    return """
      # Completion of valiant(1) for bash, made by `valiant --print bash-completion`.
      _valiant() {
        local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} choices
        case $before in
      \(choices.joined(separator: "\n"))
          --print) choices='\(names.joined(separator: " "))' ;;
          --config|--check|--unixsocket)
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
            return
            ;;
          *) choices='\(flags.joined(separator: " "))' ;;
        esac
        mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$word")
        if [ "$COMP_CWORD" -eq 1 ] && [[ $word != -* ]]; then
          mapfile -t COMPREPLY < <(compgen -f -- "$word")
        fi
      }
      complete -o filenames -F _valiant valiant

      """
  }
}
