/// SAVE, BGSAVE, LASTSAVE and BGREWRITEAOF: the keys in files.
enum SavingCommands: CommandFamily {
  static let category = Command.Category.server

  static let commands: [Command] = [
    Command(
      "SAVE", arity: 1, flags: [.admin, .noscript, .noMulti, .noAsyncLoading],
      summary: "Saves the database to disk and answers when that is done; others go on meanwhile.",
      complexity: "O(N) where N is the total number of keys in all databases", handler: save),
    Command(
      "BGSAVE [SCHEDULE]", arity: -1, flags: [.admin, .noscript, .noAsyncLoading, .wholeKeyspace],
      summary: "Saves the database to disk in the background.",
      handler: { context throws(CommandError) in
        if context.request.count > 1 {
          guard context.request.count == 2, context.request[1].equalsIgnoringCase("SCHEDULE") else {
            throw .syntax
          }
        }
        try begin(&context)
        context.reply.status("Background saving started")
      }),
    Command(
      "LASTSAVE", arity: 1, flags: [.loading, .stale, .fast, .admin, .dangerous],
      tips: ["nondeterministic_output"],
      summary: "Returns the Unix timestamp of the last successful save to disk.",
      handler: { context throws(CommandError) in
        context.reply.integer(context.server.saving.lastSave)
      }),
    Command(
      "BGREWRITEAOF", arity: 1, flags: [.admin, .noscript, .noAsyncLoading],
      summary: "Writes the append log anew, in the background: the keys, and what follows.",
      handler: rewriteLog),
  ]

  private static func rewriteLog(_ context: inout CommandContext) throws(CommandError) {
    switch context.server.appendOnly.beginRewrite(on: context.server) {
    case .began: context.reply.status("Background append only file rewriting started")
    case .scheduled: context.reply.status("Background append only file rewriting scheduled")
    case .isBusy: throw .isRewritingLog
    case .isOff: throw .savingImpossible("there is no append log: appendonly is no")
    }
  }

  private static func begin(_ context: inout CommandContext) throws(CommandError) {
    let server = context.server
    switch server.saving.begin(on: server, isLocked: context.holdsAllShards) {
    case .began: return
    case .isBusy: throw server.appendOnly.isRewriting ? .anotherSaving : .isSaving
    case .impossible(let why): throw .savingImpossible(why)
    }
  }

  private static func save(_ context: inout CommandContext) throws(CommandError) {
    try begin(&context)
    let isWaiting = context.server.saving.wait(
      client: context.client.id, worker: context.worker.index, isSilent: context.isSilent)
    if isWaiting {
      context.client.isWaiting = true
    } else if context.server.saving.report.isLastGood {
      // It is over already.
      context.reply.ok()
    } else {
      throw .savingFailed
    }
  }
}
