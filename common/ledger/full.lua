-- Whether another job of this kind would be refused, and when to come again. ARGV: model, class, owner,
-- share, limits as SUBMIT
return full_until(unpack(ARGV)) or false
